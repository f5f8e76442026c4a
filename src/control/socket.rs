//! The control socket: the server that a running member has, and the client that the commands are.
//!
//! The server is a thread that accepts and a thread per client, of which there are at most [`CLIENTS`]; each gets what
//! it needs through a channel from the control thread, and does all waiting itself (`drain --wait`, slow readers), so
//! the control thread never does. Only the owner of the process may connect: the file has mode 0600 from the moment
//! it exists.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::Sender;
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

use super::protocol::{Ask, Request, Response};

mod session;

/// How many clients are served at once; one more is told so and left.
pub const CLIENTS: usize = 16;
/// How long a client may say nothing, or read nothing of what it asked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has it.
    #[error("already running: another process serves {}", .0.display())]
    AlreadyRunning(PathBuf),
    /// The path is that of something else.
    #[error("{} exists and is not a socket; it was left alone", .0.display())]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("{what} {}: {why}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        why: io::Error,
    },
}

/// Serves until it is dropped, which removes the socket's file.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    listener: Arc<UnixListener>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Locked while this process lives, so that of two starting at once one wins. Its file stays, as lock files must.
    lock: File,
}

impl Server {
    /// Makes the socket at `path`, and its directory if it is missing, in place of one that a dead process has left.
    /// What clients want goes to the control thread through `asks`.
    ///
    /// # Errors
    /// Another process serves `path`, something else is there, or the file system refuses.
    pub fn start(path: &Path, asks: Sender<Ask>) -> Result<Server, StartError> {
        let lock = claim(path)?;
        let listener = Arc::new(listen(path).map_err(failed("listening on", path))?);
        let stopping = Arc::new(AtomicBool::new(false));
        let accepting = (Arc::clone(&listener), Arc::clone(&stopping));
        let thread = thread::Builder::new()
            .name("control-socket".into())
            .spawn(move || accept(&accepting.0, &accepting.1, &asks))
            .map_err(failed("starting the thread of", path))?;
        Ok(Server { path: path.to_owned(), listener, stopping, thread: Some(thread), lock })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Relaxed: a flag alone; sessions look at it within a tenth of a second, and nothing else hangs on it.
        self.stopping.store(true, Ordering::Relaxed);
        // Ends the thread's accept() with EINVAL (net/unix/af_unix.c, unix_accept).
        let stopped = rustix::net::shutdown(&self.listener, Shutdown::Both);
        if let (Ok(()), Some(thread)) = (stopped, self.thread.take()) {
            // A panic of the thread has been reported when it happened.
            let _ = thread.join();
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the control socket could not be removed");
        }
        // Said, not left to closing: a command that a probe forks at this moment has the file open too, until it runs.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StartError {
    let path = path.to_owned();
    move |why| StartError::Io { what, path, why }
}

/// Makes sure that `path` is free and stays ours.
fn claim(path: &Path) -> Result<File, StartError> {
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed("creating the directory", directory))?;
    }
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
    let lock = lock.map_err(failed("opening", &lock_path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::AlreadyRunning(path.to_owned())),
        Err(error) => return Err(failed("locking", &lock_path)(error.into())),
    }
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(lock),
        Err(error) => return Err(failed("looking at", path)(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(StartError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    // No other member has it, having no lock; but the path may be another program's.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("removing the stale socket", path))?;
            Ok(lock)
        }
        Err(error) => Err(failed("looking for the owner of", path)(error)),
        Ok(_) => Err(StartError::AlreadyRunning(path.to_owned())),
    }
}

/// A listening socket whose file has mode 0600 from the start.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // bind() gives the file the mode of the socket less the umask (net/unix/af_unix.c, unix_bind_bsd): set before, it
    // leaves no moment in which others could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, CLIENTS as i32)?;
    Ok(UnixListener::from(socket))
}

fn accept(listener: &UnixListener, stopping: &Arc<AtomicBool>, asks: &Sender<Ask>) {
    // Each session holds a clone: the count of them is that of the clients, whatever way they end.
    let present = Arc::new(());
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            Err(error) => {
                tracing::warn!(%error, "control socket: a client could not be accepted");
                // Out of descriptors, as a rule: trying again at once would only burn the core.
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if Arc::strong_count(&present) > CLIENTS {
            session::refuse(client, &format!("{CLIENTS} clients are being served already; try again"));
            continue;
        }
        let (present, stopping, asks) = (Arc::clone(&present), Arc::clone(stopping), asks.clone());
        let session = thread::Builder::new().name("control-client".into()).spawn(move || {
            session::serve(client, &stopping, &asks);
            drop(present);
        });
        if let Err(error) = session {
            tracing::warn!(%error, "control socket: no thread for a client");
        }
    }
}

/// Why a client got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("baton is not running: nobody serves {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket is another user's.
    #[error("{} is for its owner alone (try as root)", .0.display())]
    NotAllowed(PathBuf),
    /// The connection broke.
    #[error("the connection to baton broke: {0}")]
    Broken(#[from] io::Error),
    /// The answer is not one.
    #[error("baton answered what is not understood, as another version might: {0}")]
    Strange(#[from] serde_json::Error),
}

/// A connection to a running member.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the member at `path`.
    ///
    /// # Errors
    /// It is not running, or not ours to talk to.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(path.to_owned()),
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path.to_owned()),
            _ => ClientError::Broken(error),
        })?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Sends `request` and waits for its first response.
    ///
    /// # Errors
    /// The connection breaks, or the answer is not one.
    pub fn request(&mut self, request: &Request) -> Result<Response, ClientError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        // A server that refuses may have closed already; what it said is still to be read.
        let sent = self.stream.get_mut().write_all(&line);
        self.response().or_else(|error| sent.map_err(ClientError::Broken).and(Err(error)))
    }

    /// Waits for the next response: after one with `more`.
    ///
    /// # Errors
    /// The connection breaks, or the answer is not one.
    pub fn response(&mut self) -> Result<Response, ClientError> {
        /// Many times what [`super::protocol::CHUNK`] connections take.
        const LONGEST: u64 = 16 << 20;
        let mut line = Vec::new();
        (&mut self.stream).take(LONGEST).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(serde_json::from_slice(&line)?)
    }
}

#[cfg(test)]
mod tests;
