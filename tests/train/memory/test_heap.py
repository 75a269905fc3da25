"""The heap on the CPU: a freed block is taken again without fresh pages, and a user's own choice is left alone."""

import os
import resource
import subprocess
import sys

PROGRAM = """
import ctypes, resource
from train.memory.heap import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
kept = keep_freed_memory()
size = 64 << 20


def faults_of_a_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    ctypes.memset(block, 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


first, second = faults_of_a_block(), faults_of_a_block()
print(int(kept), first, second)
"""


def run(**environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def test_a_freed_block_is_taken_again_without_fresh_pages():
    kept, first, second = run()
    assert kept == 1
    assert first >= (64 << 20) // resource.getpagesize() // 2  # huge pages would need fewer; malloc asks for none
    assert second < first // 100


def test_the_environment_decides_where_it_says_something():
    kept, first, second = run(MALLOC_MMAP_THRESHOLD_="131072")
    assert kept == 0
    assert second > first // 2
