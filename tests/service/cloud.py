"""A store whose errors are its own, as those of s3fs and gcsfs are where there was no response or no credentials."""

from fsspec.implementations.memory import MemoryFileSystem


class CloudError(Exception):
    """Neither an OSError nor a ValueError."""


class Cloud(MemoryFileSystem):
    """What begins with cloud://, in memory; every call raises `trouble` while there is one."""

    protocol, cachable, trouble = "cloud", False, None

    def __init__(self, *args, **named):
        self._check()
        super().__init__(*args, **named)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("cloud://"))

    @classmethod
    def _check(cls):
        if cls.trouble:
            raise cls.trouble


def _checked(name):
    def call(self, *args, **named):
        self._check()
        return getattr(MemoryFileSystem, name)(self, *args, **named)

    return call


for name in ("makedirs", "ls", "cat_file", "pipe_file", "rm_file"):
    setattr(Cloud, name, _checked(name))
