//! Pods that lie and frames that make no sense: nothing passes, nothing breaks, everything is counted by name.

use podplane_tests::{Lab, eventually, succeed, text};

/// Packets that a node dropped for a reason, over all ports and workers.
fn drops(lab: &Lab, node: u8, reason: &str) -> u64 {
    let answer = lab.ask(node, "drops");
    let rows = answer["drops"].as_array().expect("drops").clone();
    rows.iter().filter(|row| row["reason"].as_str() == Some(reason)).filter_map(|row| row["packets"].as_u64()).sum()
}

/// Sends frames from a pod's eth0; `frames` is a Python expression of a list of bytes, with `me` and `gw` the MACs.
fn send_raw(lab: &Lab, pod: &str, frames: &str) {
    let script = format!(
        "import os, random, socket, struct\n\
         s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
         s.bind(('eth0', 0))\n\
         me = s.getsockname()[4]\n\
         gw = bytes([2, 0x50, 0x50, 0, 0, 1])\n\
         random.seed(7)\n\
         def send(f):\n\
         \x20   try: s.send(f)\n\
         \x20   except OSError: pass\n\
         for f in {frames}: send(f)\n"
    );
    succeed(&mut lab.exec(pod, &["python3", "-c", &script]));
}

#[test]
fn a_pod_cannot_speak_for_others() {
    let lab = Lab::up("t-spoof", &["--nodes", "1"]);
    let (_, b) = (lab.pod("default/a", 1), lab.pod("default/b", 1));
    // A foreign source address.
    succeed(&mut lab.exec("default/a", &["ip", "addr", "add", "10.244.1.250/32", "dev", "eth0"]));
    let out = lab.exec("default/a", &["ping", "-c", "3", "-i", "0.2", "-W", "1", "-I", "10.244.1.250", &b[0]]).output();
    assert!(!out.expect("ping runs").status.success(), "a spoofed packet was answered");
    eventually("spoofed IPv4 is counted", || (drops(&lab, 1, "spoofed-ipv4") >= 3).then_some(()));
    // A foreign MAC, an ARP answer for the neighbour, a router advertisement to everybody.
    send_raw(&lab, "default/a", "[gw + bytes([2,9,9,9,9,9]) + b'\\x08\\x00' + bytes(60)]");
    let arp = "bytes([0xff]*6) + me + struct.pack('!HHHBBH', 0x0806, 1, 0x800, 6, 4, 2) + me + bytes([10,244,1,3]) + gw + bytes([10,244,1,2])";
    send_raw(&lab, "default/a", &format!("[{arp}]"));
    let ra = "bytes.fromhex('333300000001') + me + b'\\x86\\xdd' + bytes([0x60,0,0,0,0,16,58,255]) \
              + bytes.fromhex('fe80000000000000') + bytes(7) + b'\\x09' + bytes.fromhex('ff020000000000000000000000000001') \
              + bytes([134,0,0,0,64,0,7,8]) + bytes(8)";
    send_raw(&lab, "default/a", &format!("[{ra}]"));
    for reason in ["spoofed-mac", "spoofed-arp"] {
        eventually(reason, || (drops(&lab, 1, reason) >= 1).then_some(()));
    }
    let route = succeed(&mut lab.exec("default/b", &["ip", "-6", "route"]));
    assert!(!route.contains("fe80::9"), "a pod took a router advertisement of another: {route}");
    lab.ping("default/a", &b);
}

#[test]
fn frames_that_make_no_sense_are_counted_and_harm_nobody() {
    let lab = Lab::up("t-garbage", &["--nodes", "2"]);
    let (_, b) = (lab.pod("default/a", 1), lab.pod("default/b", 2));
    send_raw(
        &lab,
        "default/a",
        "[(gw + me + random.choice([b'\\x08\\x00', b'\\x86\\xdd', b'\\x08\\x06', b'\\x81\\x00', os.urandom(2)]) \
          + random.choice([b'', b'\\x45', b'\\x60', b'\\x4f', b'\\x46']) + random.randbytes(random.randrange(0, 1400)))[:1464] for _ in range(5000)]",
    );
    let total = || {
        let rows = lab.ask(1, "drops")["drops"].as_array().expect("drops").clone();
        rows.iter().filter_map(|row| row["packets"].as_u64()).sum::<u64>()
    };
    eventually("the frames are counted", || (total() > 1000).then_some(()));
    lab.ping("default/a", &b);
    // The same from outside, to the node's VXLAN port.
    let script = "import socket, random; random.seed(9); s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  for _ in range(2000): s.sendto(random.randbytes(random.randrange(0, 1400)), ('10.77.0.11', 4789))";
    succeed(&mut lab.exec("@outside", &["python3", "-c", script]));
    eventually("an unknown peer is counted", || (drops(&lab, 1, "vxlan-unknown-peer") > 0).then_some(()));
    lab.ping("default/a", &b);
}

#[test]
fn a_pod_that_does_not_read_slows_nobody_else() {
    let lab = Lab::up("t-slow", &["--nodes", "1"]);
    let (a, b) = (lab.pod("default/a", 1), lab.pod("default/b", 1));
    lab.pod("default/c", 1);
    // A flood to a pod whose application never reads: its socket buffer fills, its veth drops.
    let script = format!(
        "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setblocking(False); end = time.time() + 4\n\
         while time.time() < end:\n\
         \x20   try: s.sendto(bytes(1200), ('{}', 9999))\n\
         \x20   except OSError: time.sleep(0.0005)\n",
        a[0]
    );
    let mut flood = lab.exec("default/c", &["python3", "-c", &script]).spawn().expect("the flood starts");
    let out = lab.exec("default/a", &["ping", "-c", "20", "-i", "0.1", "-W", "20", &b[0]]).output().expect("ping runs");
    flood.wait().expect("our own child");
    let said = text(&out);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("20 received"), "{said}");
}
