#!/usr/bin/env python3
"""What pods of the tests serve. serve.py NAME PORT

TCP PORT and UDP PORT answer with NAME and the client's address as it was seen; GET /bytes/N answers with N bytes, slowly
enough that a test can change things meanwhile. TCP PORT+1 greets in the same way and then echoes.
"""
import http.server
import socket
import socketserver
import sys
import threading
import time

name, port = sys.argv[1], int(sys.argv[2])


def seen(address):
    return address[0].removeprefix("::ffff:")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/bytes/"):
            return self.bytes(int(self.path.removeprefix("/bytes/")))
        self.answer(f"{name} {seen(self.client_address)}\n".encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def bytes(self, count):
        self.send_response(200)
        self.send_header("Content-Length", str(count))
        self.end_headers()
        block = bytes(range(256)) * 1024
        sent = 0
        while sent < count:
            part = block[: count - sent]
            self.wfile.write(part)
            sent += len(part)
            time.sleep(0.002)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024
    daemon_threads = True


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(f"{name} {seen(self.client_address)}\n".encode())
        while data := self.request.recv(4096):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    request_queue_size = 1024
    daemon_threads = True


def datagrams():
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.bind(("::", port))
    while True:
        # Answers come from the address that was asked: a host may have several.
        _, ancillary, _, client = sock.recvmsg(65536, 1024)
        sock.sendmsg([f"{name} {seen(client)}\n".encode()], ancillary, 0, client)


threading.stack_size(256 * 1024)
threading.Thread(target=datagrams, daemon=True).start()
threading.Thread(target=EchoServer(("::", port + 1), Echo).serve_forever, daemon=True).start()
Server(("::", port), Handler).serve_forever()
