"""What a program cannot do to the machine: each attempt, by itself, is refused."""

import pytest

from openqwq.sandbox import Limits, Sandbox

HEAD = """import ctypes, fcntl, os, resource, signal, socket, stat, struct, subprocess
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(4096)
def call(name, *arguments):
    return getattr(libc, name)(*arguments) == 0
def reach(family, kind, *address):
    with socket.socket(family, kind) as s:
        s.settimeout(1)
        return s.connect(*address) is None if address else True
def writes(path):
    return os.open(path, os.O_WRONLY) >= 0
def reached(attempt):
    try:
        return bool(attempt())
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError):
        return False
"""

ATTEMPTS = {
    # the network, and sockets that know no network namespace
    "an_address_outside": "reach(socket.AF_INET, socket.SOCK_STREAM, ('192.0.2.1', 80))",
    "a_name": "bool(socket.getaddrinfo('example.org', 80))",
    "a_raw_socket": "reach(socket.AF_INET, socket.SOCK_RAW)",
    "a_packet_socket": "reach(17, socket.SOCK_RAW)",
    "the_hypervisor": "reach(40, socket.SOCK_STREAM)",
    "netlink": "reach(16, socket.SOCK_RAW)",
    "the_kernels_ciphers": "reach(38, socket.SOCK_SEQPACKET)",
    # namespaces, mounts and roots
    "a_user_namespace": "call('unshare', 1 << 28)",
    "a_mount_namespace": "call('unshare', 1 << 17)",
    "namespaces_by_clone": "libc.syscall(220 if os.uname().machine == 'aarch64' else 56, 1 << 28 | 17, 0, 0, 0, 0) > 0",
    "another_namespace": "call('setns', os.open('/', os.O_RDONLY), 0)",
    "a_mount": "call('mount', b'tmpfs', b'/tmp', b'tmpfs', 0, None)",
    "an_unmount": "call('umount2', b'/tmp', 2)",
    "another_root": "call('chroot', b'/tmp')",
    "a_file_handle": "call('name_to_handle_at', -100, b'/usr', buffer, buffer, 0)",
    # other processes
    "tracing": "call('ptrace', 0, 0, 0, 0)",
    "anothers_memory": "libc.process_vm_readv(os.getpid(), buffer, 0, buffer, 0, 0) >= 0",
    "a_process_outside": "any(call('kill', pid, 0) for pid in range(2, 500))",
    "a_terminal": "fcntl.ioctl(0, 0x5412, b'x') is not None",
    # power over the machine
    "the_hosts_name": "call('sethostname', b'x', 1)",
    "the_clock": "call('settimeofday', buffer, None)",
    "the_kernels_log": "libc.klogctl(3, buffer, 4096) >= 0",
    "a_restart": "call('reboot', 0)",
    "swap": "call('swapon', b'/tmp', 0)",
    "accounting": "call('acct', None)",
    "the_personality": "libc.personality(0x0400000) >= 0",
    "a_capability": "libc.prctl(23, 21, 0, 0, 0) == 1 and call('chroot', b'/')",
    "root": "call('setuid', 0) or call('setgid', 0)",
    "another_user": "call('setuid', 1)",
    "more_processes": "resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6)) is None",
    "real_time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) is None",
    # devices and files
    "a_device": "os.mknod('/tmp/disk', stat.S_IFBLK | 0o600, os.makedev(8, 0)) is None",
    "memory_of_the_machine": "os.open('/dev/mem', os.O_RDONLY) >= 0",
    "kernel_settings": "writes('/proc/sys/kernel/core_pattern') or writes('/sys/power/state')",
    "its_control_group": "os.listdir('/sys/fs/cgroup') != []",
    "a_program_of_the_system": "writes('/usr/bin/env')",
    "our_own_files": "writes('/jail/openqwq/sandbox/inside/driver.pyc')",
    "the_filter": "writes('/jail/filter')",
    "other_users_by_a_set_id_program": "subprocess.run(['/usr/bin/su', '-c', 'id'], timeout=5).returncode == 0",
}


LIMITS = Limits(wall_s=30, cpu_s=30, processes=16)


@pytest.mark.parametrize("name", ATTEMPTS)
def test_attempt_is_refused(warm_sandbox, name):
    result = warm_sandbox.run(f"{HEAD}print(reached(lambda: {ATTEMPTS[name]}))", limits=LIMITS)
    assert (result.stdout, result.status) == ("False\n", "ok"), result


def test_every_attempt_is_refused_in_a_jail_for_one_job():
    lines = [f"print({name!r}, reached(lambda: {body}))\n" for name, body in ATTEMPTS.items()]
    with Sandbox(workers=1, jobs_per_jail=1) as sandbox:
        result = sandbox.run(HEAD + "".join(lines), limits=LIMITS)
    assert result.stdout.splitlines() == [f"{name} False" for name in ATTEMPTS]


def test_what_is_allowed_counts_as_reached(warm_sandbox):
    """Guards the other tests of this file: an attempt that is mistyped would be refused too."""
    bodies = ["reach(socket.AF_INET, socket.SOCK_STREAM)", "call('kill', os.getpid(), 0)", "writes('/dev/null')"]
    bodies += [
        "subprocess.run(['/usr/bin/env'], capture_output=True).returncode == 0",
        "libc.prctl(3, 0, 0, 0, 0) >= 0",
    ]
    code = HEAD + "".join(f"print(reached(lambda: {body}))\n" for body in bodies)
    assert warm_sandbox.run(code, limits=LIMITS).stdout.split() == ["True"] * len(bodies)
