# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keyed stream of a wipe, and direct reading, through libraries that every system has (libcrypto, libc).

AES-256 in counter mode over zeros; the counter block is the standard 128-bit big-endian number ``byte offset / 16``.
So stock OpenSSL makes the same bytes from any 16-byte boundary on:

    dd if=DEVICE bs=4096 skip=S count=N iflag=direct | openssl enc -d -aes-256-ctr -K KEY -iv $(printf %032x $((S*256)))

gives zeros exactly where the device holds the stream. One ``Stream`` serves one thread; ctypes releases the
interpreter lock while libcrypto works.
"""

import ctypes
import ctypes.util
import errno
import mmap
import os

CHUNK = 65536  # generated per call: stays in the nearest cache
LIBRARIES = ("libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so.10", "libcrypto.so.1.0.2", "libcrypto.so.1.0.0")


class StreamError(Exception):
    """libcrypto is not there or refuses."""


def load_libcrypto():
    """The system's libcrypto as a ctypes library, with argument types set (pointers are 64 bits wide)."""
    tried = []
    for name in LIBRARIES + (ctypes.util.find_library("crypto") or "libcrypto.so",):
        try:
            lib = ctypes.CDLL(name)
            lib.EVP_aes_256_ctr.restype = ctypes.c_void_p
            lib.EVP_aes_256_ctr.argtypes = []
            lib.EVP_CIPHER_CTX_new.restype = ctypes.c_void_p
            lib.EVP_CIPHER_CTX_new.argtypes = []
            lib.EVP_CIPHER_CTX_free.restype = None
            lib.EVP_CIPHER_CTX_free.argtypes = [ctypes.c_void_p]
            lib.EVP_EncryptInit_ex.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_char_p] * 2
            lib.EVP_EncryptUpdate.argtypes = [
                ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int), ctypes.c_void_p, ctypes.c_int,
            ]  # fmt: skip
        except (OSError, AttributeError) as err:
            tried.append("%s (%s)" % (name, err))
            continue
        return lib
    raise StreamError("no usable libcrypto was found (%s); install OpenSSL's library" % "; ".join(tried))


def libcrypto_version(lib=None):
    """Version text of libcrypto, for the certificate."""
    lib = lib or load_libcrypto()
    for name in ("OpenSSL_version", "SSLeay_version"):
        try:
            function = getattr(lib, name)
        except AttributeError:
            continue
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_int]
        return function(0).decode("ascii", "replace")
    return "unknown"


class Buffer:
    """Page-aligned memory (O_DIRECT wants it) with its address for C and a view for Python."""

    def __init__(self, size):
        self.size = size
        self.map = mmap.mmap(-1, size)
        self.view = memoryview(self.map)
        self._handle = (ctypes.c_char * size).from_buffer(self.map)
        self.address = ctypes.addressof(self._handle)


class Stream:
    """Makes the keyed stream of one medium from any 16-byte boundary on."""

    def __init__(self, key, lib=None):
        if len(key) != 32:
            raise StreamError("the stream key has %d bytes; AES-256 takes 32" % len(key))
        self._lib = lib or load_libcrypto()
        self._key = bytes(key)
        self._cipher = self._lib.EVP_aes_256_ctr()
        self._context = self._lib.EVP_CIPHER_CTX_new()
        self._out = ctypes.c_int(0)
        self._zeros = Buffer(CHUNK)
        if not self._context:
            raise StreamError("libcrypto gave no cipher context")

    def close(self):
        if self._context:
            self._lib.EVP_CIPHER_CTX_free(self._context)
            self._context = None

    def fill(self, buffer, offset, size):
        """Write the stream's bytes [offset, offset+size) to the start of ``buffer``."""
        if offset % 16 or not 0 < size <= buffer.size:
            raise StreamError("stream wanted at offset %d for %d bytes" % (offset, size))
        counter = (offset // 16).to_bytes(16, "big")
        if self._lib.EVP_EncryptInit_ex(self._context, self._cipher, None, self._key, counter) != 1:
            raise StreamError("libcrypto refused to start AES-256-CTR")
        update, context, out, zeros = self._lib.EVP_EncryptUpdate, self._context, self._out, self._zeros.address
        pointer = ctypes.byref(out)
        for start in range(0, size, CHUNK):
            part = min(CHUNK, size - start)
            if update(context, buffer.address + start, pointer, zeros, part) != 1 or out.value != part:
                raise StreamError("libcrypto stopped in the middle of the stream")


class DirectIO:
    """Reading into and writing from aligned buffers by plain libc calls (os.preadv exists from Python 3.7 only)."""

    def __init__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
        self._pread, self._pwrite = getattr(libc, "pread64", libc.pread), getattr(libc, "pwrite64", libc.pwrite)
        for function in (self._pread, self._pwrite):
            function.argtypes, function.restype = arguments, ctypes.c_ssize_t
        self._memcmp = libc.memcmp
        self._memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

    def _all(self, function, fd, buffer, offset, size, start):
        done = 0
        while done < size:
            count = function(fd, buffer.address + start + done, size - done, offset + done)
            if count < 0:
                number = ctypes.get_errno()
                if number == errno.EINTR:
                    continue
                raise OSError(number, os.strerror(number))
            if count == 0:
                raise OSError(errno.EIO, "the device ends at %d, expected %d more bytes" % (offset + done, size - done))
            done += count

    def read(self, fd, buffer, offset, size, start=0):
        self._all(self._pread, fd, buffer, offset, size, start)

    def write(self, fd, buffer, offset, size, start=0):
        self._all(self._pwrite, fd, buffer, offset, size, start)

    def same(self, one, other, size, start=0):
        """Are the bytes [start, start+size) of two buffers equal?"""
        return self._memcmp(one.address + start, other.address + start, size) == 0

    def periodic(self, buffer, size):
        """Does the buffer repeat its first 16 bytes all through?"""
        return self._memcmp(buffer.address, buffer.address + 16, size - 16) == 0
