#!/usr/bin/env python3
"""archive.py SPEC OUT: writes images as one OCI archive, without any container tool.

SPEC is JSON: {"layers": {NAME: FOLDER}, "images": [{"names": [...], "layers": [NAME...], "entrypoint": [...], "cmd": [...]}]}.
A layer is an uncompressed tar of its folder, owned by root and without times: equal contents have equal digests, and
what images share is stored once.
"""
import hashlib
import io
import json
import os
import platform
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Archive:
    """An OCI layout within a tar file."""

    def __init__(self, path):
        self.tar = tarfile.open(path, "w")
        self.written = set()

    def file(self, name, data):
        if name in self.written:
            return
        self.written.add(name)
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o644
        self.tar.addfile(entry, io.BytesIO(data))

    def blob(self, kind, data):
        digest = hashlib.sha256(data).hexdigest()
        self.file(f"blobs/sha256/{digest}", data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    def layer(self, folder):
        def anonymous(entry):
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            return entry

        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name in sorted(os.listdir(folder)):
                tar.add(os.path.join(folder, name), arcname=name, filter=anonymous)
        return self.blob("layer.v1.tar", data.getvalue())

    def image(self, layers, entrypoint, cmd):
        config = {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Env": [PATH], "Entrypoint": entrypoint, "Cmd": cmd},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob("config.v1+json", json.dumps(config).encode()),
            "layers": layers,
        }
        return self.blob("manifest.v1+json", json.dumps(manifest).encode())


def main(spec_path, out_path):
    with open(spec_path) as file:
        spec = json.load(file)
    archive = Archive(out_path)
    layers = {name: archive.layer(folder) for name, folder in spec["layers"].items()}
    index = []
    for image in spec["images"]:
        manifest = archive.image([layers[name] for name in image["layers"]], image.get("entrypoint", []), image.get("cmd", []))
        for name in image["names"]:
            tag = name.rsplit(":", 1)[1]
            notes = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
            index.append({**manifest, "annotations": notes})
    archive.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    archive.file("index.json", json.dumps({"schemaVersion": 2, "manifests": index}).encode())
    archive.tar.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
