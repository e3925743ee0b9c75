#!/usr/bin/env python3
"""Holds every #include in src/ and include/ against the arrows that cmake/rooms.cmake declares.

A room may include itself, base, obs, and the rooms its line names. CUDA headers stay in
backends/cuda. A source file past 800 lines is split. Prints every violation; exit 1 if there is one.
"""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
rooms = {}
for line in (root / "cmake/rooms.cmake").read_text().splitlines():
    m = re.fullmatch(r"trireme_arrows\(([^)]*)\)", line.strip())
    if m:
        name, *targets = m.group(1).split()
        rooms[name] = set(targets)

bad = []


def room_of(path):
    """The longest declared room that a path below src/ (or an include of it) lies in."""
    parts = pathlib.PurePosixPath(path).parts
    for n in range(len(parts) - 1, 0, -1):
        if "/".join(parts[:n]) in rooms:
            return "/".join(parts[:n])
    return None


for name, targets in rooms.items():
    for t in targets - set(rooms):
        bad.append(f"cmake/rooms.cmake: {name} names the room {t}, which is not declared")
order = list(rooms)
for name, targets in rooms.items():
    for t in targets:
        if t in rooms and order.index(t) >= order.index(name):
            bad.append(f"cmake/rooms.cmake: the arrow {name} -> {t} points upward")

files = sorted(p for d in ("src", "include") for p in (root / d).rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))
for path in files:
    rel = path.relative_to(root).as_posix()
    room = "api" if rel.startswith("include/") else room_of(rel[len("src/"):])
    text = path.read_text()
    if room is None:
        bad.append(f"{rel}: lies in no room of cmake/rooms.cmake")
        continue
    if text.count("\n") > 800:
        bad.append(f"{rel}: {text.count(chr(10))} lines; split it")
    is_test = re.search(r"_(test|bench|fuzz)\.cpp$", rel)
    for inc in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.M):
        if re.match(r"(cuda|cublas|cudnn|nccl|cutlass|cub/|ucp/)", inc) and not re.match(r"src/(backends/cuda|comm/nccl|kv_transfer/ucx)/", rel):
            bad.append(f"{rel}: includes {inc}; CUDA and its libraries stay in their own rooms")
        target = "api" if inc.startswith("trireme/") else room_of(inc)
        if target is None or target == room:
            continue
        allowed = rooms[room] | {"base", "api" if room == "base" else "base"} | ({"obs"} if room != "base" else set())
        if target not in allowed and not (target == "api" and inc == "trireme/status.h"):
            bad.append(f"{rel}: includes {inc}, but {room} may not use {target}" + (" (a test neither)" if is_test else ""))

print(f"{len(files)} files in {len(rooms)} rooms: {len(bad)} violations")
for b in bad:
    print("  " + b)
sys.exit(1 if bad else 0)
