"""Encryption of uploaded voices at rest: Fernet (AES-128 in CBC mode with HMAC-SHA256), with keys from a file."""

from __future__ import annotations

from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from deployments.errors import fail

TOKEN_START = b"gAAAA"
"""How each encrypted file begins: version 0x80 and the upper bytes of the time, in base64."""
MOST_KEY_BYTES = 64 * 1024


class VoiceKeys:
    """The keys of a service. The first one encrypts, and all decrypt, so that keys can be replaced."""

    def __init__(self, path: Path) -> None:
        """Reads a file with a key on each line, empty lines and comments apart. Raises `MotetError` (invalid)."""
        try:
            with path.expanduser().open("rb") as file:
                lines = file.read(MOST_KEY_BYTES).split(b"\n")
            keys = [Fernet(line.strip()) for line in lines if line.strip() and not line.startswith(b"#")]
            self._keys = MultiFernet(keys)
        except OSError as error:
            cause = f"The file of voices.keys_file cannot be read: {error.strerror}."
            raise fail("invalid", cause, "Check its path and rights.") from error
        except ValueError as error:  # without the line, which is a secret
            cause = "The file of voices.keys_file has no key, or a line that is not one."
            raise fail("invalid", cause, "Write one made by `motet voices new-key` on each line.") from error

    def encrypted(self, data: bytes) -> bytes:
        """The data under the first key."""
        return self._keys.encrypt(data)

    def decrypted(self, data: bytes) -> bytes:
        """The data. Raises `ValueError` if it was changed, or is under another key."""
        try:
            return self._keys.decrypt(data)
        except InvalidToken as error:
            raise ValueError("it was changed, or encrypted with a key that voices.keys_file does not have") from error

    def renewed(self, data: bytes) -> bytes:
        """Data that may be encrypted with any key, under the first one. Raises as `decrypted` does."""
        return self.encrypted(self.decrypted(data) if is_encrypted(data) else data)


def new_key() -> str:
    """A random key, as a line of the file."""
    return Fernet.generate_key().decode()


def is_encrypted(data: bytes) -> bool:
    """Whether data is as `VoiceKeys.encrypted` makes it; a voice that is not encrypted begins otherwise."""
    return data.startswith(TOKEN_START)
