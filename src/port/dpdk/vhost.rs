//! virtio-user as the server of its socket (`server=1`): what a member that was killed leaves of it.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::devices::Device;

/// Removes the socket that the device is about to serve, if nobody serves it any more: the driver refuses a path that is
/// there, so a member could not start again after a crash. One that somebody serves, and what is no socket, is left to
/// the driver's complaint.
pub(super) fn remove_dead_socket(device: &Device) -> io::Result<()> {
    match served_path(device) {
        Some(path) => remove_if_dead(path),
        None => Ok(()),
    }
}

fn served_path(device: &Device) -> Option<&Path> {
    let serves = device.device.starts_with("net_virtio_user") && argument(device, "server") == Some("1");
    argument(device, "path").filter(|_| serves).map(Path::new)
}

fn argument<'a>(device: &'a Device, name: &str) -> Option<&'a str> {
    let mut arguments = device.args.as_deref()?.split(',').filter_map(|text| text.split_once('='));
    arguments.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn remove_if_dead(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Ok(());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn device(directory: &Path, arguments: &str) -> Device {
        let path = directory.join("s1.sock");
        Device::from_vdev(&format!("net_virtio_user0,path={},queues=1{arguments}", path.display()))
    }

    #[test]
    fn a_socket_that_nobody_serves_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s1.sock");
        let served = device(directory.path(), ",server=1");
        remove_dead_socket(&served).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        remove_dead_socket(&served).unwrap();
        assert!(path.exists(), "somebody serves it");
        drop(listener);
        remove_dead_socket(&served).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_ours_to_serve_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s1.sock");
        drop(UnixListener::bind(&path).unwrap());
        remove_dead_socket(&device(directory.path(), "")).unwrap();
        remove_dead_socket(&device(directory.path(), ",server=0")).unwrap();
        assert!(path.exists(), "as a client we connect to it");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "text").unwrap();
        remove_dead_socket(&device(directory.path(), ",server=1")).unwrap();
        assert!(path.exists(), "a file is not a socket");
    }
}
