#!/usr/bin/env python3
"""What pods of the policy tests run.

policy.py serve TCP,... UDP,...   serves these ports, both families: TCP echoes, UDP answers each datagram with itself
policy.py probe                   for each line {"window": SECONDS, "targets": [[PROTOCOL, HOST, PORT], ...]} tries all
                                  targets at once, and prints the list of those that answered within the window
policy.py flood PORT HOST...      sends datagrams to PORT of all hosts and opens connections there, without end; for each
                                  line on standard input prints how many datagrams it has sent
policy.py stream HOST PORT        sends a numbered datagram each millisecond; for each line on standard input prints the
                                  last number sent, and how many numbers came back echoed
policy.py hold HOST PORT          holds a connection that echoes each 20 ms; for each line on standard input prints how
                                  many echoes came back since the last line, or "broken"
"""
import errno
import json
import selectors
import socket
import sys
import threading
import time

# Seconds after which a datagram that was not answered is sent again.
AGAIN = 0.2


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def serve(tcp, udp):
    chooser = selectors.DefaultSelector()
    for kind, ports in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
        for port in filter(None, ports.split(",")):
            sock = socket.socket(socket.AF_INET6, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", int(port)))
            sock.setblocking(False)
            if kind == socket.SOCK_STREAM:
                sock.listen(1024)
            chooser.register(sock, selectors.EVENT_READ, "datagrams" if kind == socket.SOCK_DGRAM else "listener")
    while True:
        for key, _ in chooser.select():
            sock = key.fileobj
            try:
                if key.data == "listener":
                    connection, _ = sock.accept()
                    connection.setblocking(False)
                    chooser.register(connection, selectors.EVENT_READ, "connection")
                elif key.data == "datagrams":
                    data, sender = sock.recvfrom(2048)
                    sock.sendto(data, sender)
                else:
                    data = sock.recv(4096)
                    if data:
                        sock.sendall(data)
                    else:
                        chooser.unregister(sock)
                        sock.close()
            except BlockingIOError:
                pass
            except OSError:
                if key.data == "connection":
                    chooser.unregister(sock)
                    sock.close()


def attempt(targets, window):
    """Which of the targets answer within the window. Datagrams are sent again, as the kernel does with segments: a busy
    machine may lose one."""
    chooser = selectors.DefaultSelector()
    answered = [False] * len(targets)
    socks = []
    for n, (protocol, host, port) in enumerate(targets):
        stream = protocol == "tcp"
        sock = socket.socket(family(host), socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        sock.setblocking(False)
        socks.append(sock)
        try:
            code = sock.connect_ex((host, port))
            if code not in (0, errno.EINPROGRESS):
                continue
            if not stream:
                sock.send(b"?")
            chooser.register(sock, selectors.EVENT_WRITE if stream else selectors.EVENT_READ, n)
        except OSError:
            pass
    end = time.monotonic() + window
    again = time.monotonic() + AGAIN
    while chooser.get_map() and (left := end - time.monotonic()) > 0:
        if time.monotonic() >= again:
            for key in list(chooser.get_map().values()):
                try:
                    if targets[key.data][0] == "udp":
                        key.fileobj.send(b"?")
                except OSError:
                    pass
            again = time.monotonic() + AGAIN
        for key, _ in chooser.select(min(left, AGAIN)):
            sock, n = key.fileobj, key.data
            try:
                if targets[n][0] == "tcp":
                    answered[n] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                else:
                    answered[n] = sock.recv(16) == b"?"
            except OSError:
                pass
            chooser.unregister(sock)
    for sock in socks:
        if sock.type == socket.SOCK_STREAM:
            # Nothing of this attempt is to be seen by the next.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    return answered


def probe():
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(attempt(order["targets"], order["window"])), flush=True)


def flood(port, *hosts):
    sent = 0

    def datagrams():
        nonlocal sent
        socks = {f: socket.socket(f, socket.SOCK_DGRAM) for f in (socket.AF_INET, socket.AF_INET6)}
        while True:
            for host in hosts:
                try:
                    socks[family(host)].sendto(b"flood", (host, int(port)))
                    sent += 1
                except OSError:
                    pass
            time.sleep(0.0005)

    def connections():
        while True:
            socks = []
            for host in hosts:
                sock = socket.socket(family(host), socket.SOCK_STREAM)
                sock.setblocking(False)
                sock.connect_ex((host, int(port)))
                socks.append(sock)
            time.sleep(0.05)
            for sock in socks:
                sock.close()

    for each in (datagrams, connections):
        threading.Thread(target=each, daemon=True).start()
    for _ in sys.stdin:
        print(sent, flush=True)


def stream(host, port):
    sock = socket.socket(family(host), socket.SOCK_DGRAM)
    sock.connect((host, int(port)))
    last, echoed = 0, 0

    def send():
        nonlocal last
        while True:
            last += 1
            try:
                sock.send(b"%d" % last)
            except OSError:
                pass
            time.sleep(0.001)

    def receive():
        nonlocal echoed
        while True:
            try:
                sock.recv(64)
                echoed += 1
            except OSError:
                pass

    for each in (send, receive):
        threading.Thread(target=each, daemon=True).start()
    for _ in sys.stdin:
        print(last, echoed, flush=True)


def hold(host, port):
    sock = socket.create_connection((host, int(port)), timeout=30)
    sock.settimeout(None)
    count, broken = 0, False

    def echo():
        nonlocal count, broken
        try:
            while True:
                sock.sendall(b"x" * 64)
                left = 64
                while left:
                    data = sock.recv(left)
                    if not data:
                        raise ConnectionResetError
                    left -= len(data)
                count += 1
                time.sleep(0.02)
        except OSError:
            broken = True

    threading.Thread(target=echo, daemon=True).start()
    before = 0
    for _ in sys.stdin:
        now = count
        print("broken" if broken else now - before, flush=True)
        before = now


{"serve": serve, "probe": probe, "flood": flood, "stream": stream, "hold": hold}[sys.argv[1]](*sys.argv[2:])
