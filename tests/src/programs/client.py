#!/usr/bin/env python3
"""What clients of the tests do beyond curl.

client.py udp HOST PORT [TIMES [INTERVAL]]   one socket sends TIMES datagrams; prints each answer, or "none"
client.py tcp HOST PORT                      connects; prints "open", "refused" or "silence"
client.py load HOST PORT SECONDS             GET / over new connections without end; prints "good N bad M LAST-ERROR"
client.py flows HOST PORT COUNT SECONDS      COUNT connections that echo all the time; prints
                                             "lost N gap MILLISECONDS": broken connections, and the longest silence of any
"""
import selectors
import socket
import sys
import threading
import time


def udp(host, port, times="1", interval="0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(1)
    sock.connect((host, int(port)))
    for _ in range(int(times)):
        try:
            sock.send(b"question")
            print(sock.recv(4096).decode().strip(), flush=True)
        except ConnectionRefusedError:
            print("refused", flush=True)
        except TimeoutError:
            print("none", flush=True)
        time.sleep(float(interval))


def tcp(host, port):
    try:
        socket.create_connection((host, int(port)), timeout=1.5).close()
        print("open")
    except ConnectionRefusedError:
        print("refused")
    except OSError:
        print("silence")


def load(host, port, seconds):
    deadline = time.monotonic() + float(seconds)
    good, bad, last = 0, 0, ""
    guard = threading.Lock()

    def one():
        nonlocal good, bad, last
        while time.monotonic() < deadline:
            try:
                with socket.create_connection((host, int(port)), timeout=3) as sock:
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
    for thread in threads:
        thread.join()
    print("good", good, "bad", bad, last)


def flows(host, port, count, seconds):
    """Each connection has one message under way; a silence is the time between two echoes of one connection."""
    poll = selectors.DefaultSelector()
    last, lost, worst = {}, 0, 0.0
    for _ in range(int(count)):
        sock = socket.create_connection((host, int(port)), timeout=5)
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
    while time.monotonic() < deadline and last:
        for key, _ in poll.select(timeout=0.1):
            sock = key.fileobj
            try:
                if not sock.recv(4096):
                    raise ConnectionResetError
                now = time.monotonic()
                worst = max(worst, now - last[sock])
                last[sock] = now
                sock.send(b"x")
            except BlockingIOError:
                pass
            except OSError:
                lost += 1
                poll.unregister(sock)
                del last[sock]
        # A machine with two cores also has to carry the packets.
        time.sleep(0.02)
    end = time.monotonic()
    stuck = sum(1 for at in last.values() if end - at > 3)
    print("lost", lost + stuck, "gap", int(worst * 1000))


{"udp": udp, "tcp": tcp, "load": load, "flows": flows}[sys.argv[1]](*sys.argv[2:])
