#!/usr/bin/env python3
"""What clients of the tests do beyond curl.

client.py udp HOST PORT [TIMES [INTERVAL [TRIES]]]
                                             one socket asks TIMES questions, each up to TRIES times; prints each answer,
                                             "refused" or "none"
client.py until HOST PORT PREFIX             one socket asks ten times a second until an answer begins with PREFIX, for a
                                             minute at most; prints each answer that differs from the one before
client.py tcp HOST PORT SECONDS              connects; prints "open", "refused" or "silence"
client.py entries HOST1 HOST2 PORT           one source port, two entries: connects through the first; prints what becomes
                                             of a second connection, then, once the first was closed, of a third, and
                                             who answered a socket that asked both in turn
client.py load HOST PORT                     GET / over new connections until standard input ends; prints
                                             "good N bad M LAST-ERROR"
client.py download HOST PORT BYTES           GET /bytes/BYTES; prints "begun" after a tenth, goes on after a line from
                                             standard input, and prints the number of bytes that came
client.py flows HOST PORT COUNT SECONDS      COUNT connections that echo all the time; prints "open", then
                                             "lost N gap MILLISECONDS": broken connections, and the longest silence of any
"""
import selectors
import socket
import struct
import sys
import threading
import time


def asker(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(1)
    sock.connect((host, int(port)))
    return sock


def ask(sock):
    try:
        sock.send(b"question")
        return sock.recv(4096).decode().strip()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "none"


def udp(host, port, times="1", interval="0.1", tries="1"):
    sock = asker(host, port)
    for _ in range(int(times)):
        for _ in range(int(tries)):
            answer = ask(sock)
            if answer != "none":
                break
        print(answer, flush=True)
        time.sleep(float(interval))


def until(host, port, prefix):
    sock, last, deadline = asker(host, port), "", time.monotonic() + 60
    while not last.startswith(prefix) and time.monotonic() < deadline:
        answer = ask(sock)
        if answer != last:
            print(answer, flush=True)
        last = answer
        time.sleep(0.1)


def tcp(host, port, seconds):
    try:
        socket.create_connection((host, int(port)), timeout=float(seconds)).close()
        print("open")
    except ConnectionRefusedError:
        print("refused")
    except OSError:
        print("silence")


def entries(first, second, port):
    family = socket.AF_INET6 if ":" in first else socket.AF_INET

    def bound(kind, own):
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", own))
        return sock

    def connect(host, own, seconds):
        sock = bound(socket.SOCK_STREAM, own)
        sock.settimeout(seconds)
        try:
            sock.connect((host, int(port)))
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            # A reset at the end: nobody has to remember the connection.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return sock
        except ConnectionRefusedError:
            print("refused", flush=True)
        except OSError:
            print("silence", flush=True)
        sock.close()

    one = connect(first, 0, 40)
    own = one.getsockname()[1]
    one.recv(4096)
    if two := connect(second, own, 1.5):
        print("open", flush=True)
        two.close()
    one.close()
    three = connect(second, own, 40)
    print("open" if three and three.recv(4096) else "nothing", flush=True)
    three.close()
    sock = bound(socket.SOCK_DGRAM, 0)
    sock.settimeout(1)
    for host in [first, second] * 3:
        answer = None
        for _ in range(20):
            sock.sendto(b"question", (host, int(port)))
            try:
                answer, by = sock.recvfrom(4096)
                if by[0] == host:
                    break
            except TimeoutError:
                pass
        print(answer.decode().strip() if answer else "none", flush=True)


def load(host, port):
    over = threading.Event()
    good, bad, last = 0, 0, ""
    guard = threading.Lock()

    def one():
        nonlocal good, bad, last
        while not over.is_set():
            try:
                # A busy machine may lose a SYN, or two; what counts is whether anything is refused or broken.
                with socket.create_connection((host, int(port)), timeout=40) as sock:
                    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    answer = b""
                    while part := sock.recv(4096):
                        answer += part
                fine = b" 200 " in answer.split(b"\r\n")[0] and answer.endswith(b"\n")
                error = f"short answer {answer[:40]!r}"
            except OSError as caught:
                fine, error = False, repr(caught)
            # Within a pod's quota of flows, which closed connections use for a while.
            time.sleep(0.04)
            with guard:
                good, bad = (good + 1, bad) if fine else (good, bad + 1)
                last = last if fine else error

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    print("good", good, "bad", bad, last)


def download(host, port, count):
    sock = socket.create_connection((host, int(port)), timeout=40)
    sock.sendall(f"GET /bytes/{count} HTTP/1.0\r\n\r\n".encode())
    head, came, waited = b"", 0, False
    while b"\r\n\r\n" not in head:
        head += sock.recv(1)
    while part := sock.recv(1 << 16):
        came += len(part)
        if came > int(count) // 10 and not waited:
            waited = True
            print("begun", flush=True)
            sys.stdin.readline()
    print(came)


def flows(host, port, count, seconds):
    """Each connection has one message under way; a silence is the time between two echoes of one connection. What is
    under way when the time is over is waited for."""
    poll = selectors.DefaultSelector()
    last, lost, worst = {}, 0, 0.0
    for _ in range(int(count)):
        sock = socket.create_connection((host, int(port)), timeout=40)
        sock.recv(4096)  # the greeting
        sock.setblocking(False)
        last[sock] = 0
        poll.register(sock, selectors.EVENT_READ)
    print("open", flush=True)
    begin = time.monotonic()
    for sock in last:
        last[sock] = begin
        sock.send(b"x")
    deadline = begin + float(seconds)
    pending = set(last)
    # TCP waits for up to twice as long as the network was away, which on a busy machine may be a minute.
    while pending and time.monotonic() < deadline + 240:
        for key, _ in poll.select(timeout=0.1):
            sock = key.fileobj
            try:
                if not sock.recv(4096):
                    raise ConnectionResetError
                now = time.monotonic()
                worst = max(worst, now - last[sock])
                last[sock] = now
                if now < deadline:
                    sock.send(b"x")
                else:
                    pending.discard(sock)
            except BlockingIOError:
                pass
            except OSError:
                lost += 1
                poll.unregister(sock)
                pending.discard(sock)
        # A machine with two cores also has to carry the packets.
        time.sleep(0.02)
    print("lost", lost + len(pending), "gap", int(worst * 1000), "reset", lost, "silent", len(pending))


COMMANDS = {"udp": udp, "until": until, "tcp": tcp, "entries": entries, "load": load, "download": download, "flows": flows}
COMMANDS[sys.argv[1]](*sys.argv[2:])
