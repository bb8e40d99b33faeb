"""Records as lines: what ansible-runner writes is read, what we write it reads, and seals tell records from noise."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from ee_runner.errors import BadFrame, StreamError, TruncatedStream
from ee_runner.stream import lines
from ee_runner.stream.decoder import StreamDecoder
from ee_runner.stream.lines import Item, LineEncoder
from ee_runner.stream.records import Hello, Kind, Noise, Record, hello_line

EVENT = {"event": "runner_on_ok", "counter": 1, "uuid": "u-1", "event_data": {"res": {"changed": False}}}
STATUS = {"status": "running", "runner_ident": "i"}
HELLO = hello_line(Hello())

# What `ansible-runner transmit` of version 2.4 writes for a project of one playbook, most keywords left out.
TRANSMITTED = (
    b'{"kwargs": {"ident": "1c9cbb91897240b4992fb980a57ed616", "playbook": "p.yml", "verbosity": null}}\n'
    b'{"zipfile": 278}\n'
    b"UEsDBBQAAAAAAGWfdl0AAAAAAAAAAAAAAAAIAAAAcHJvamVjdC9QSwMEFAAAAAgAZZ92XZxzetk+AAAARAAAAA0AAABwcm9qZWN0L3AueW1s"
    b"01XIyC8uKbZSyMlPTswBsbkUFNITSzJSi+LTEpNBMnn5QKGSxOJsIDu6OiU1qTTdSqE6txhIZmTW1sZyAQBQSwECFAMUAAAAAABln3ZdAAAAAAAA"
    b"AAAAAAAACAAAAAAAAAAAABAA7UEAAAAAcHJvamVjdC9QSwECFAMUAAAACABln3ZdnHN62T4AAABEAAAADQAAAAAAAAAAAAAApIEmAAAAcHJvamVj"
    b'dC9wLnltbFBLBQYAAAAAAgACAHEAAACPAAAAAAA={"eof": true}\n'
)

# What `ansible-runner worker` of version 2.4 writes, most of each line left out.
WORKED = (
    b'{"status": "running", "runner_ident": "i"}\n'
    b'{"uuid": "0289d101", "counter": 1, "stdout": "", "event": "playbook_on_start", "event_data": {"status": "no"}}\n'
    b'{"event": "keepalive", "counter": 0, "uuid": 0}\n'
    b'{"status": "successful", "runner_ident": "i"}\n'
    b'{"zipfile": 4}\nAQIDBA=={"eof": true}\n'
)


def read(*chunks: bytes) -> list[Item]:
    decoder = StreamDecoder()
    return [item for chunk in chunks for item in decoder.feed(chunk)]


def problem(*chunks: bytes) -> str:
    with pytest.raises(BadFrame) as caught:
        read(*chunks)
    return str(caught.value)


def seal(line: bytes, number: int) -> bytes:
    words = {"seq": number, "crc": f"{zlib.crc32(line):08x}"}
    return json.dumps({"event": "keepalive", "counter": 0, "uuid": 0, "ee_runner": words}).encode() + b"\n"


def encode(*records: tuple[Kind, dict[str, Any]], sealed: bool = True) -> list[bytes]:
    encoder = LineEncoder(sealed=sealed)
    return [encoder.message(kind, body) for kind, body in records]


class TestWhatAnsibleRunnerWrites:
    def test_what_it_transmits_is_a_request_an_archive_and_the_end(self) -> None:
        request, archive, content, archive_end, end = read(TRANSMITTED)
        assert isinstance(request, Record)
        assert request.kind is Kind.REQUEST
        assert json.loads(TRANSMITTED.split(b"\n")[0]) == request.body
        assert archive == Record(Kind.ARCHIVE, {"size": 278})
        assert isinstance(content, Record)
        assert isinstance(content.body, bytes)
        assert zipfile.ZipFile(io.BytesIO(content.body)).namelist() == ["project/", "project/p.yml"]
        assert archive_end == Record(Kind.ARCHIVE_END, {})
        assert end == Record(Kind.END, {"eof": True})

    def test_what_its_worker_writes_is_told_apart_by_its_keys(self) -> None:
        records = [item for item in read(WORKED) if isinstance(item, Record)]
        kinds = [Kind.STATUS, Kind.EVENT, Kind.KEEPALIVE, Kind.STATUS]
        assert [record.kind for record in records] == [*kinds, Kind.ARCHIVE, Kind.CONTENT, Kind.ARCHIVE_END, Kind.END]
        assert records[2].body == {}
        assert records[5].body == b"\x01\x02\x03\x04"

    def test_its_records_have_no_numbers(self) -> None:
        assert {item.sequence for item in read(TRANSMITTED + WORKED) if isinstance(item, Record)} == {None}

    @pytest.mark.parametrize(
        ("line", "kind"),
        [
            ({"kwargs": {}, "eof": 1}, Kind.REQUEST),
            ({"status": "failed", "event": "runner_on_ok", "zipfile": 1}, Kind.STATUS),
            ({"eof": False, "event": "keepalive"}, Kind.END),
            ({"event": "keepalive", "counter": 7}, Kind.KEEPALIVE),
            ({"event": "verbose"}, Kind.EVENT),
            ({"counter": 1, "uuid": "u"}, Kind.EVENT),
        ],
    )
    def test_the_first_key_that_it_looks_for_decides(self, line: dict[str, Any], kind: Kind) -> None:
        (record,) = read(json.dumps(line).encode() + b"\n")
        assert isinstance(record, Record)
        assert record.kind is kind

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"Last login: Mon",
            b"[1]",
            b'"event"',
            b"{}",
            b'{"counter": 1}',
            b'{"event": "x"',
            b'{"event": "x"} and more',
            b'{"event": "\xff"}',
            b"[" * 100_000,
            b'{"event":' * 100_000,
            b'{"event":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"event": ' + b"9" * 5000 + b"}",
            b"\xef\xbb\xbf{}",
        ],
        ids=lambda line: ascii(line[:20]),
    )
    def test_any_other_line_is_noise(self, line: bytes) -> None:
        assert read(line + b"\n") == [Noise((line + b"\n")[:1000], len(line) + 1)]

    @pytest.mark.parametrize("line", [b"hello\n", HELLO], ids=["older", "sealed"])
    def test_each_line_of_noise_comes_by_itself_with_its_beginning(self, line: bytes) -> None:
        *_, first, second = read(line + b"a" * 5000 + b"\n" + b"b\n")
        assert first == Noise(b"a" * 1000, 5001)
        assert second == Noise(b"b\n", 2)

    @pytest.mark.parametrize("size", ["-1", "true", "1.0", "null", '"7"', "[]", "9223372036854775808", "NaN"])
    def test_an_archive_without_a_sensible_size_is_refused(self, size: str) -> None:
        assert '{"zipfile": N} with a whole number was expected' in problem(b'{"zipfile": %s}\n' % size.encode())

    def test_numbers_and_texts_beyond_the_json_standard_are_read_as_python_writes_them(self) -> None:
        body = {"event": "x", "n": float("inf"), "half": "a\udcffb", "pair": "\U0001f600", "path": r"\ud800"}
        (record,) = read(json.dumps(body).encode() + b"\n")
        assert isinstance(record, Record)
        assert record.body == {**body, "half": "a\ufffdb"}

    def test_an_empty_archive_ends_at_once(self) -> None:
        kinds = [Kind.ARCHIVE, Kind.ARCHIVE_END, Kind.END]
        assert [item.kind for item in read(b'{"zipfile": 0}\n{"eof": true}\n') if isinstance(item, Record)] == kinds


class TestBase64:
    def content(self, text: bytes, size: int) -> bytes:
        items = read(b'{"zipfile": %d}\n%s{"eof": true}\n' % (size, text))
        assert [item.kind for item in items if isinstance(item, Record)][-2:] == [Kind.ARCHIVE_END, Kind.END]
        return b"".join(i.body for i in items if isinstance(i, Record) and isinstance(i.body, bytes))

    @pytest.mark.parametrize("size", [*range(10), 1000, 3 * 1024 * 1024 + 1])
    def test_content_of_any_size_is_read(self, size: int) -> None:
        data = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
        assert self.content(base64.b64encode(data[:size]), size) == data[:size]

    def test_space_within_it_is_passed_over(self) -> None:
        text = b"\n".join(base64.b64encode(b"0123456789" * 100)[i : i + 7] for i in range(0, 1336, 7))
        assert self.content(b" \t\r\n" + text, 1000) == b"0123456789" * 100

    def test_space_may_be_longer_than_the_text(self) -> None:
        assert self.content(b"\n" * 3_000_000 + b"Y" + b" " * 100 + b"WI" + b"\t" * 100 + b"=", 2) == b"ab"

    def test_content_comes_as_it_arrives(self) -> None:
        decoder = StreamDecoder()
        list(decoder.feed(b'{"zipfile": 1000}\n'))
        assert list(decoder.feed(b"AAAAA")) == [Record(Kind.CONTENT, b"\0\0\0")]

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            (b"AAAA!AAA", "'!'"),
            (b"AAAAAA-_", "'-'"),
            (b"AAA\0AAAA", r"'\x00'"),
            (b"AAAA\xc3\xa9AA", r"'\xc3'"),
            (b"AA==AAAA", "'AA=='"),
            (b"AAA=AAAA", "'AAA='"),
            (b"A===AAAA", "'A==='"),
            (b"AAAA====", "'===='"),
            (b"AAAAAAA=", "'AAA='"),
            (b"=AAAAAAA", "'=AAA'"),
            (b'AAAA{"eof": true}', "'{'"),
        ],
    )
    def test_anything_else_within_it_is_named(self, text: bytes, found: str) -> None:
        message = problem(b'{"zipfile": 6}\n' + text)
        assert message.startswith("The stream can not be read in the middle of an archive (record 1), after ")
        assert f"{found} was found where the base64 text of the archive goes on" in message

    def test_padding_is_needed_where_the_size_says_so(self) -> None:
        assert "after 3 of 4 bytes: 'AAAA' was found" in problem(b'{"zipfile": 4}\nAAAAAAAA')

    def test_what_is_good_before_a_foreign_character_is_given(self) -> None:
        decoder = StreamDecoder()
        items = decoder.feed(b'{"zipfile": 60}\nAAAAAAA!')
        assert [next(items), next(items)] == [Record(Kind.ARCHIVE, {"size": 60}), Record(Kind.CONTENT, b"\0\0\0")]
        with pytest.raises(BadFrame, match="'!' was found"):
            next(items)


class TestSealedLines:
    def test_a_record_is_given_once_its_seal_has_come(self) -> None:
        (record,) = encode((Kind.EVENT, EVENT))
        line, sealing, _ = record.split(b"\n")
        decoder = StreamDecoder()
        (hello,) = decoder.feed(HELLO)
        assert hello == Hello()
        assert list(decoder.feed(line + b"\n")) == []
        assert list(decoder.feed(sealing)) == []
        assert list(decoder.feed(b"\n")) == [Record(Kind.EVENT, EVENT, 1)]

    def test_the_seal_holds_the_number_and_the_checksum_of_the_line(self) -> None:
        encoder = LineEncoder(sealed=True, first=7)
        line, sealing, _ = encoder.message(Kind.STATUS, STATUS).split(b"\n")
        words = {"seq": 7, "crc": f"{zlib.crc32(line):08x}"}
        assert json.loads(line) == STATUS
        assert json.loads(sealing) == {"event": "keepalive", "counter": 0, "uuid": 0, "ee_runner": words}
        assert encoder.next == 8

    def test_the_seal_of_an_archive_covers_its_first_line_and_its_content(self) -> None:
        encoder = LineEncoder(sealed=True)
        stream = encoder.archive(4) + encoder.content(b"ab") + encoder.content(b"cd") + encoder.archive_end()
        first, sealing, _ = stream.split(b"\n")
        text, sealing = sealing[:8], sealing[8:]
        assert text == base64.b64encode(b"abcd")
        assert json.loads(sealing)["ee_runner"] == {"seq": 1, "crc": f"{zlib.crc32(first + b'abcd'):08x}"}
        numbered = [Record(Kind.ARCHIVE, {"size": 4}, 1), Record(Kind.CONTENT, b"abcd", 1)]
        assert read(HELLO + stream) == [Hello(), *numbered, Record(Kind.ARCHIVE_END, {}, 1)]

    def test_an_archive_ends_with_its_seal_alone(self) -> None:
        encoder = LineEncoder(sealed=True)
        stream = encoder.archive(3) + encoder.content(b"abc")
        assert [item.kind for item in read(HELLO + stream) if isinstance(item, Record)] == [Kind.ARCHIVE, Kind.CONTENT]
        noise = [b"noise\n", b'{"zipfile":5}\n', b'{"event":"x"}\n', encoder.keepalive()]
        sealing = encoder.archive_end()
        assert read(HELLO + stream + b"".join(noise) + sealing)[3:] == [
            *(Noise(line, len(line)) for line in noise if line),
            Record(Kind.ARCHIVE_END, {}, 1),
        ]

    def test_a_damaged_archive_is_found_out_at_its_seal(self) -> None:
        encoder = LineEncoder(sealed=True)
        stream = encoder.archive(3) + encoder.content(b"abc") + encoder.archive_end()
        assert "record 1 (an archive) is damaged" in problem(HELLO + stream.replace(b"YWJj", b"YWJk"))
        assert "record 1 (an archive) is not sealed: a greeting" in problem(HELLO + stream[:20] + HELLO)

    @pytest.mark.parametrize("noise", [b"text\n", b'{"event":"x"}\n', b'{"eof": true}\n', b'{"status":"x"}\n', b"{}\n"])
    def test_lines_without_a_seal_are_noise_whatever_they_look_like(self, noise: bytes) -> None:
        first, second = encode((Kind.EVENT, EVENT), (Kind.END, {"eof": True}))
        items = read(HELLO + noise + first + noise + noise + second)
        assert [item for item in items if isinstance(item, Noise)] == [Noise(noise, len(noise))] * 3
        assert [item for item in items if isinstance(item, Record)] == [
            Record(Kind.EVENT, EVENT, 1),
            Record(Kind.END, {"eof": True}, 2),
        ]

    @pytest.mark.parametrize("noise", [b"login: ", b'{"a":{"b":', b'{"event":"x"}', b"\xff{", b'{"' * 63])
    def test_noise_that_did_not_end_its_line_is_cut_off(self, noise: bytes) -> None:
        (first,) = encode((Kind.EVENT, EVENT))
        encoder = LineEncoder(sealed=True, first=2)
        archive = encoder.archive(0) + noise + encoder.archive_end()
        stream = noise + HELLO + noise + first + noise + encoder.keepalive() + noise + archive
        seen = Noise(noise, len(noise))
        records = [Record(Kind.EVENT, EVENT, 1), Record(Kind.KEEPALIVE, {}), Record(Kind.ARCHIVE, {"size": 0}, 2)]
        expected: list[Item] = [seen, Hello()]
        for record in [*records, Record(Kind.ARCHIVE_END, {}, 2)]:
            expected += [seen, record]
        assert read(stream) == expected

    def test_a_line_is_not_searched_for_a_record_without_end(self) -> None:
        (record,) = encode((Kind.EVENT, EVENT))
        assert "record 1 is damaged" in problem(HELLO + b'{"' * 64 + record)

    def test_a_terminal_on_the_way_does_no_harm(self) -> None:
        encoder = LineEncoder(sealed=True)
        parts = [encoder.message(Kind.EVENT, EVENT), encoder.keepalive(), encoder.archive(2), encoder.content(b"ab")]
        stream = HELLO + b"".join(parts) + encoder.archive_end() + encoder.message(Kind.END, {"eof": True})
        assert read(stream.replace(b"\n", b"\r\n")) == read(stream)

    def test_a_changed_record_is_named(self) -> None:
        first, second = encode((Kind.EVENT, EVENT), (Kind.STATUS, STATUS))
        damaged = second.replace(b"running", b"runninG")
        message = (
            "The stream can not be read after record 1 (an event): record 2 is damaged: its checksum does not fit."
        )
        assert problem(HELLO + first + damaged) == message

    def test_a_seal_without_its_record_says_that_the_record_is_damaged(self) -> None:
        (record,) = encode((Kind.EVENT, EVENT))
        assert "record 1 is damaged" in problem(HELLO + record[record.index(b"\n") + 1 :])
        assert "record 1 is damaged" in problem(HELLO + seal(b"", 1))

    def test_missing_records_are_named(self) -> None:
        sealed = encode(*[(Kind.EVENT, EVENT)] * 8)
        assert "after record 2 (an event): record 3 is missing." in problem(HELLO, *sealed[:2], *sealed[3:])
        assert "after record 4 (an event): records 5 to 7 are missing." in problem(HELLO, *sealed[:4], *sealed[7:])

    def test_a_record_that_comes_again_is_named(self) -> None:
        sealed = encode(*[(Kind.EVENT, EVENT)] * 3)
        assert "record 2 came twice or out of order, where record 4 was due" in problem(HELLO, *sealed, sealed[1])

    def test_a_sealed_line_of_an_unknown_kind_is_refused(self) -> None:
        line = b'{"later":1}'
        assert "record 1 is none that this end knows" in problem(HELLO + line + b"\n" + seal(line, 1))
        odd = b'{ "zipfile": 5}'
        assert "record 1 is none that this end knows" in problem(HELLO + odd + b"\n" + seal(odd, 1))

    @pytest.mark.parametrize(
        "words",
        [
            {"seq": "1", "crc": "00000000"},
            {"seq": True, "crc": "00000000"},
            {"seq": 0, "crc": "00000000"},
            {"seq": 1 << 63, "crc": "00000000"},
            {"seq": 1},
            {"seq": 1, "crc": 0},
            {"seq": 1, "crc": "0000000G"},
            {"seq": 1, "crc": "000000000"},
        ],
    )
    def test_a_seal_that_can_not_be_read_is_refused(self, words: object) -> None:
        line = json.dumps({"event": "keepalive", "counter": 0, "uuid": 0, "ee_runner": words}).encode()
        assert "the seal of a record can not be read" in problem(HELLO + b"{}\n" + line + b"\n")

    def test_a_seal_without_a_greeting_is_refused(self) -> None:
        assert "the greeting that comes before sealed records is missing" in problem(*encode((Kind.EVENT, EVENT)))

    @pytest.mark.parametrize("words", [None, 7, [], {}, {"later": 1}])
    @pytest.mark.parametrize("before", [b"", HELLO])
    def test_other_words_between_our_own_ends_are_noise(self, words: object, before: bytes) -> None:
        line = json.dumps({"event": "keepalive", "counter": 0, "uuid": 0, "ee_runner": words}).encode() + b"\n"
        assert read(before + line)[-1] == Noise(line, len(line))

    def test_what_a_record_says_is_never_taken_for_a_seal_or_a_greeting(self) -> None:
        own = {"version": 1, "seq": 1, "crc": "00000000"}
        end = {"eof": True, "ee_runner": own}
        assert read(HELLO, *encode((Kind.END, end)))[1:] == [Record(Kind.END, end, 1)]
        quoted = HELLO.decode() + encode((Kind.EVENT, EVENT))[0].decode()
        body = {"event": "verbose", "stdout": quoted, "event_data": {"res": json.loads(HELLO), "ee_runner": 1}}
        for sealed in (False, True):
            (line,) = encode((Kind.EVENT, body), sealed=sealed)
            (record,) = [item for item in read((HELLO if sealed else b"") + line) if isinstance(item, Record)]
            assert record.body == body


class TestTheEncoder:
    def test_an_older_end_gets_lines_alone(self) -> None:
        stream = b"".join(encode((Kind.EVENT, EVENT), (Kind.END, {"eof": True}), sealed=False))
        assert [json.loads(line) for line in stream.splitlines()] == [EVENT, {"eof": True}]

    def test_a_keepalive_is_the_line_that_ansible_runner_passes_over(self) -> None:
        for sealed in (False, True):
            encoder = LineEncoder(sealed=sealed)
            assert json.loads(encoder.keepalive()) == {"event": "keepalive", "counter": 0, "uuid": 0}
            assert encoder.next == 1

    def test_no_keepalive_gets_into_an_archive(self) -> None:
        encoder = LineEncoder(sealed=True)
        stream = encoder.archive(1) + encoder.keepalive() + encoder.content(b"a") + encoder.keepalive()
        assert stream == b'{"zipfile":1}\n'
        assert encoder.archive_end().startswith(b"YQ=={")
        assert encoder.keepalive()

    @pytest.mark.parametrize("pieces", [[1] * 10, [2, 3, 5], [10], [0, 4, 0, 6], [9, 1]])
    def test_the_text_of_an_archive_does_not_depend_on_its_pieces(self, pieces: list[int]) -> None:
        encoder, data = LineEncoder(sealed=False), b"0123456789"
        stream = encoder.archive(10)
        for size in pieces:
            stream, data = stream + encoder.content(memoryview(data)[:size]), data[size:]
        assert stream + encoder.archive_end() == b'{"zipfile":10}\n' + base64.b64encode(b"0123456789")

    def test_an_archive_has_its_announced_size(self) -> None:
        encoder = LineEncoder(sealed=True)
        encoder.archive(4)
        with pytest.raises(ValueError, match="2 bytes longer"):
            encoder.content(b"123456")
        encoder = LineEncoder(sealed=True)
        encoder.archive(4)
        encoder.content(b"12")
        with pytest.raises(ValueError, match="2 bytes before"):
            encoder.archive_end()

    def test_a_size_is_needed(self) -> None:
        with pytest.raises(ValueError, match="begins with its size"):
            LineEncoder(sealed=True).archive(None)

    def test_records_and_archives_do_not_mix(self) -> None:
        encoder = LineEncoder(sealed=True)
        misuses: tuple[Callable[[], bytes], ...] = (lambda: encoder.content(b""), encoder.archive_end)
        for misuse in misuses:
            with pytest.raises(ValueError, match="no archive is open"):
                misuse()
        encoder.archive(1)
        for misuse in (lambda: encoder.message(Kind.EVENT, EVENT), lambda: encoder.archive(1)):
            with pytest.raises(ValueError, match="an archive is open"):
                misuse()

    @pytest.mark.parametrize(
        ("kind", "body"),
        [(Kind.END, {}), (Kind.EVENT, STATUS), (Kind.STATUS, EVENT), (Kind.ARCHIVE, {"zipfile": 1})],
    )
    def test_a_body_that_reads_as_another_kind_is_refused(self, kind: Kind, body: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="makes no"):
            LineEncoder(sealed=False).message(kind, body)

    def test_half_of_a_surrogate_pair_passes_as_json(self) -> None:
        (line,) = encode((Kind.EVENT, {"event": "x", "stdout": "a\udcff"}), sealed=False)
        assert json.loads(line) == {"event": "x", "stdout": "a\udcff"}


class TestLimits:
    def test_a_line_may_be_64_mib_long_and_no_longer(self) -> None:
        body = {"event": "x", "stdout": ""}
        body["stdout"] = "a" * (lines.MAX_LINE - len(json.dumps(body, separators=(",", ":"))))
        (line,) = encode((Kind.EVENT, body))
        assert line.index(b"\n") == lines.MAX_LINE
        assert read(HELLO + line)[1] == Record(Kind.EVENT, body, 1)
        assert "a line is longer than 67108864 bytes" in problem(HELLO + b"a" + line)
        body["stdout"] += "a"
        with pytest.raises(StreamError, match=re.escape("record 1 (event) of 67108865 bytes is too long")):
            encode((Kind.EVENT, body))

    def test_a_line_without_end_is_not_gathered_for_ever(self) -> None:
        decoder = StreamDecoder()
        piece = b" " * (1 << 20)
        for _ in range(64):
            assert not list(decoder.feed(piece))
        with pytest.raises(BadFrame, match="a line is longer"):
            list(decoder.feed(piece))

    def test_a_refused_stream_stays_refused(self) -> None:
        decoder = StreamDecoder()
        with pytest.raises(BadFrame) as first:
            list(decoder.feed(b'{"zipfile": -1}\n'))
        with pytest.raises(BadFrame) as second:
            list(decoder.feed(TRANSMITTED))
        with pytest.raises(BadFrame) as third:
            list(decoder.close())
        assert str(first.value) == str(second.value) == str(third.value)


class TestTheLastLine:
    def test_an_end_record_of_an_older_end_needs_no_line_end(self) -> None:
        decoder = StreamDecoder()
        list(decoder.feed(TRANSMITTED[:-1]))
        assert not decoder.ended
        assert list(decoder.close()) == []
        assert decoder.ended

    @pytest.mark.parametrize("line", [b'{"eof": tru', b'{"status": "successful"}', b'{"zipfile": 1}'])
    def test_any_other_unfinished_line_is_noise(self, line: bytes) -> None:
        decoder = StreamDecoder()
        list(decoder.feed(WORKED.split(b'{"zip')[0] + line))
        rest = decoder.close()
        assert next(rest) == Noise(line, len(line))
        with pytest.raises(TruncatedStream, match=r"ended after record 3 \(a status\), before its end record"):
            next(rest)

    def test_a_sealed_record_whose_seal_is_cut_is_noise(self) -> None:
        (record,) = encode((Kind.END, {"eof": True}))
        decoder = StreamDecoder()
        list(decoder.feed(HELLO + record[:-1]))
        rest = decoder.close()
        assert next(rest) == Noise(b'{"eof":true}\n', 13)
        assert next(rest).data.startswith(b'{"event":"keepalive"')
        with pytest.raises(TruncatedStream):
            next(rest)
