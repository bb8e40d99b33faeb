"""What the tests need of the machine: engines, images, users and servers, each started and stopped by the tests."""
