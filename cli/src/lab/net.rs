//! The lab's wires, made with iproute2.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `program` with `args`; its complaints become the error.
pub fn tool(program: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {program} (Debian: apt-get install iproute2 util-linux)"))?;
    if !out.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs lines of `ip` commands in a namespace, in one process.
pub fn ip_batch(netns: &str, lines: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running ip (Debian: apt-get install iproute2)")?;
    let mut input = child.stdin.take().context("ip has no standard input")?;
    input.write_all((lines.join("\n") + "\n").as_bytes())?;
    drop(input);
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!("ip in {netns}: {}\n{}", String::from_utf8_lossy(&out.stderr).trim(), lines.join("\n"));
    }
    Ok(())
}

/// Makes a namespace with a working `lo`. One that is there already is an error.
pub fn add_netns(name: &str) -> Result<()> {
    tool("ip", &["netns", "add", name])?;
    ip_batch(name, &["link set lo up".to_owned()])
}

/// Deletes a namespace; one that is not there is no error.
pub fn delete_netns(name: &str) -> Result<()> {
    if Path::new("/run/netns").join(name).exists() {
        tool("ip", &["netns", "delete", name])?;
    }
    Ok(())
}

/// Names of all namespaces that start with `prefix`.
pub fn netns_with_prefix(prefix: &str) -> Vec<String> {
    std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Joins `netns` to the bridge of `fabric` by a veth pair: `device` here, `port` there.
pub fn plug(fabric: &str, port: &str, netns: &str, device: &str, mtu: u16) -> Result<()> {
    let path = format!("/run/netns/{netns}");
    ip_batch(
        fabric,
        &[
            format!("link add {port} mtu {mtu} type veth peer name {device} mtu {mtu} netns {path}"),
            format!("link set {port} master br0 up"),
        ],
    )
}

/// Sets a sysctl in a namespace.
pub fn sysctl(netns: &str, key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    tool("nsenter", &[&format!("--net=/run/netns/{netns}"), "--", "sh", "-c", &format!("echo {value} > {path}")])?;
    Ok(())
}
