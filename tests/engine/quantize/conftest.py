"""Integer loops that this processor may lack are emulated as in the tests of the kernels."""

from tests.kernels.cpu.conftest import emulated, emulator, int8_loops

__all__ = ["emulated", "emulator", "int8_loops"]
