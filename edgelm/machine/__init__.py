"""What this machine is: cores, instruction sets, memory, and whether onnxruntime's wheels run here."""

from edgelm.machine.host import CpuInfo, MemoryInfo, read_cpu, read_memory

__all__ = ["CpuInfo", "MemoryInfo", "read_cpu", "read_memory"]
