"""Reading a machine from its /proc and /sys: cores, features, threads, memory."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.machine.host import read_cpu, read_memory, recommended_threads, usable_cpus

MB = 1 << 20


def test_a_raspberry_pi_5(machine):
    cpu = read_cpu(machine("rpi5"))
    assert (cpu.arch, cpu.model, cpu.core) == ("aarch64", "Raspberry Pi 5 Model B Rev 1.0", "cortex-a76")
    assert [len(cluster.cores) for cluster in cpu.clusters] == [4]
    assert cpu.clusters[0].max_khz == 2_400_000
    assert (cpu.has_dotprod, cpu.has_i8mm) == (True, False)
    assert recommended_threads(None, cpu) == 4


def test_a_raspberry_pi_4_has_no_dotprod(machine):
    cpu = read_cpu(machine("rpi4"))
    assert (cpu.core, cpu.has_dotprod) == ("cortex-a72", False)


def test_only_the_big_cores_of_big_little_are_worth_a_thread(machine):
    cpu = read_cpu(machine("rk3588"))
    assert [(cluster.name, len(cluster.cores), cluster.little) for cluster in cpu.clusters] == [
        ("cortex-a76", 4, False),
        ("cortex-a55", 4, True),
    ]
    assert cpu.core == "cortex-a76"
    assert [core.index for core in cpu.big] == [4, 5, 6, 7]
    assert recommended_threads(8, cpu) == 4


def test_three_kinds_of_big_cores_all_count(machine):
    assert recommended_threads(None, read_cpu(machine("phone"))) == 5


def test_cores_without_a_known_name_are_told_apart_by_capacity_or_clock(machine):
    unknown = {"proc/cpuinfo": "".join(f"processor: {i}\nFeatures: asimd\nCPU part: 0xfff\n\n" for i in range(4))}
    folder = "sys/devices/system/cpu"
    by_capacity = {f"{folder}/cpu{i}/cpu_capacity": "250" if i < 2 else "1024" for i in range(4)}
    assert recommended_threads(None, read_cpu(machine(files=unknown | by_capacity))) == 2


def test_a_core_without_bigger_ones_beside_it_is_not_little(machine):
    assert recommended_threads(None, read_cpu(machine("rpi-zero2w"))) == 4


def test_two_hyperthreads_are_one_core(machine):
    cpu = read_cpu(machine("laptop"))
    assert (cpu.arch, len(cpu.cores)) == ("x86_64", 4)
    assert usable_cpus(cpu) == 4
    assert recommended_threads(None, cpu) == 2


def test_threads_stay_within_the_target_the_affinity_and_the_quota(machine):
    assert recommended_threads(2, read_cpu(machine("rpi5"))) == 2
    assert recommended_threads(4, read_cpu(machine("rpi5"), affinity={1})) == 1
    quota = {"sys/fs/cgroup/cpu.max": "250000 100000\n"}
    assert recommended_threads(4, read_cpu(machine("rpi5", quota))) == 2


def test_bound_to_little_cores_it_uses_those(machine):
    assert recommended_threads(4, read_cpu(machine("rk3588"), affinity={0, 1})) == 2


def test_there_is_always_one_thread(machine):
    tight = {"sys/fs/cgroup/cpu.max": "10000 100000\n"}
    assert recommended_threads(None, read_cpu(machine("rpi5", tight))) == 1
    assert recommended_threads(0, read_cpu(machine())) == 1


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2.0),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/1\n3:memory:/docker/1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        ({"proc/self/cgroup": "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, None),
    ],
    ids=["v2", "v2 unlimited", "v2 of a group above", "v1 not ours", "v1", "v1 unlimited"],
)
def test_the_cpu_quota_of_a_control_group(machine, files: dict[str, str], quota: float | None):
    assert read_cpu(machine("rpi5", files)).quota == quota


def test_a_feature_counts_only_when_every_core_has_it(machine):
    files = {"proc/cpuinfo": "processor: 0\nFeatures: asimd asimddp\n\nprocessor: 1\nFeatures: asimd\n"}
    assert read_cpu(machine(files=files)).features == {"asimd"}


def test_old_kernels_tell_the_core_once_for_all(machine):
    files = {"proc/cpuinfo": "Processor: AArch64\nprocessor: 0\nprocessor: 1\n\nFeatures: asimd\nCPU part: 0xd03\n"}
    assert read_cpu(machine(files=files)).has_dotprod is False


def test_memory_swap_and_zram(machine):
    memory = read_memory(machine("rpi-zero2w"))
    assert memory.total == 416 * MB
    assert memory.usable == memory.available == 290 * MB
    assert (memory.swap_total, memory.swap_free) == (1024 * MB, 900 * MB)
    assert memory.zram == 416 * MB
    assert memory.limit is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_what_its_limit_leaves(machine, version: int):
    """500 MB used, 100 of them page cache that the kernel can drop."""
    files = {
        2: {
            "sys/fs/cgroup/memory.max": str(1000 * MB),
            "sys/fs/cgroup/memory.current": str(500 * MB),
            "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {100 * MB}\n",
        },
        1: {
            "proc/self/cgroup": "3:memory:/docker/1\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(1000 * MB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(500 * MB),
            "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {100 * MB}\n",
        },
    }[version]
    memory = read_memory(machine("rpi5", files))
    assert (memory.limit, memory.used) == (1000 * MB, 400 * MB)
    assert (memory.capacity, memory.usable) == (1000 * MB, 600 * MB)


def test_no_limit_is_not_a_limit(machine):
    unlimited = {
        "proc/self/cgroup": "3:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    assert read_memory(machine("rpi5", unlimited)).limit is None


def test_a_machine_that_tells_nothing(machine):
    cpu, memory = read_cpu(machine()), read_memory(machine())
    assert (cpu.features, cpu.has_dotprod, cpu.core, cpu.quota, cpu.model) == (None, None, None, None, None)
    assert recommended_threads(None, cpu) == 1
    assert (memory.total, memory.usable, memory.capacity) == (None, None, None)


def test_this_machine():
    cpu = read_cpu()
    assert 1 <= recommended_threads(None, cpu) <= usable_cpus(cpu) <= len(os.sched_getaffinity(0))


NOISE = st.text(st.sampled_from("processor FeaturesCPU partflags:0x123,-9\n\t \0é٣²max"), max_size=60) | st.just(
    "9" * 30
)
PATHS = (
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/swaps",
    "proc/self/cgroup",
    "proc/device-tree/model",
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/cpu0/cpu_capacity",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
    "sys/fs/cgroup/cpu.max",
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory.stat",
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(PATHS), NOISE | NOISE.map(lambda text: f"processor: 0\n{text}: {text}")))
def test_nonsense_never_raises(tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]):
    root = tmp_path_factory.mktemp("root")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    cpu = read_cpu(root)
    assert 1 <= recommended_threads(None, cpu) <= len(cpu.cores)
    assert (read_memory(root).usable or 0) >= 0


def test_a_folder_in_the_place_of_a_file(tmp_path: Path):
    (tmp_path / "proc/cpuinfo").mkdir(parents=True)
    (tmp_path / "proc/meminfo").mkdir()
    assert read_cpu(tmp_path).features is None
    assert read_memory(tmp_path).total is None
