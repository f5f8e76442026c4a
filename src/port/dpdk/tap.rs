//! A queue of the host's TAP as a [`Port`], on DPDK's buffers.
//!
//! DPDK's own TAP driver makes a system call for each frame of at most the MTU, and knows no offloads. Here the kernel
//! hands over, and takes, segments of up to 64 KiB ([`offload`]); what a worker sees is frames as they are on the wire.
//! docs/capsule.md has the figures.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use arrayvec::ArrayVec;

use super::Error;
use super::buffer::{self, MbufBuffer};
use super::large::Large;
use super::memory::Pool;
use crate::host;
use crate::port::offload::header::{self, Offload};
use crate::port::offload::merge::{Train, Trains};
use crate::port::{BURST, Buffer, Burst, Port};

/// What is read straight into a buffer; of a longer frame the rest comes into [`TapPort::large`].
const ROOM: usize = 2048;

/// The descriptors of a TAP, one for each worker.
pub(super) fn open(name: &str, queues: usize) -> Result<Vec<File>, Error> {
    let failed = |reason: io::Error| Error::Interface { name: name.to_owned(), reason: format!("attaching: {reason}") };
    let queues: Vec<File> = (0..queues).map(|_| host::attach_tap(name)).collect::<io::Result<_>>().map_err(failed)?;
    for queue in &queues {
        rustix::io::ioctl_fionbio(queue, true).map_err(|reason| failed(reason.into()))?;
    }
    queues.first().map(host::offer_offloads).transpose().map_err(failed)?;
    Ok(queues)
}

/// A queue of a TAP, owned by one worker and used on its thread alone.
#[derive(Debug)]
pub struct TapPort {
    queue: File,
    pool: Pool,
    /// A frame longer than a buffer, as a whole, while it is cut.
    large: Large,
}

impl TapPort {
    pub(super) fn new(queue: File, pool: Pool) -> TapPort {
        TapPort { queue, pool, large: Large::new() }
    }

    /// A descriptor that is readable while a frame waits.
    pub(super) fn arrivals(queue: &File) -> io::Result<OwnedFd> {
        queue.as_fd().try_clone_to_owned()
    }

    /// A frame from the kernel; none if there is none, or if it is to be cut and lies in `large`.
    fn read(&mut self) -> Option<MbufBuffer> {
        // Not kept for the next time if there is none: a worker on the control core ends after the pools do.
        let mut buffer = buffer::allocate(self.pool, ROOM)?;
        let mut header = header::FINISHED;
        let mut into = [&mut header[..], buffer.bytes_mut(), &mut self.large.bytes[ROOM..]].map(IoSliceMut::new);
        let read = rustix::io::readv(&self.queue, &mut into);
        let len = read.ok()?.checked_sub(header::LEN)?;
        match header::parse(&header) {
            Offload::Segment { mss } => {
                self.large.bytes[..ROOM].copy_from_slice(buffer.bytes());
                if self.large.begin(len, mss, ROOM) {
                    return None;
                }
                buffer.mark_cut();
            }
            offload if len <= ROOM && buffer.resize(len) => {
                let finished = match offload {
                    Offload::Checksum { start, offset } => header::finish_checksum(buffer.bytes_mut(), start, offset),
                    other => other == Offload::None,
                };
                if !finished {
                    buffer.mark_cut();
                }
            }
            _ => buffer.mark_cut(),
        }
        Some(buffer)
    }

    /// Writes a train; false if the kernel does not take it (the interface is down, or no memory).
    fn write(&self, trains: &Trains, train: &Train, burst: &mut Burst<MbufBuffer>) -> bool {
        let header = train.write_headers(burst[usize::from(train.first)].bytes_mut());
        let mut parts: ArrayVec<IoSlice<'_>, { BURST + 1 }> = ArrayVec::new();
        parts.push(IoSlice::new(&header));
        for (number, index) in trains.frames(train).enumerate() {
            let frame = burst[index].bytes();
            let begin = if number == 0 { 0 } else { train.headers.into() };
            parts.push(IoSlice::new(&frame[begin..train.len_of(number, frame.len())]));
        }
        rustix::io::writev(&self.queue, &parts).is_ok()
    }
}

impl Port for TapPort {
    type Buffer = MbufBuffer;

    fn receive(&mut self, burst: &mut Burst<MbufBuffer>) {
        while !burst.is_full() {
            let cutting = self.large.is_being_cut();
            match if cutting { self.large.next(self.pool) } else { self.read() } {
                Some(buffer) => burst.push(buffer),
                // A segment has been cut to its end, or begins to be.
                None if cutting != self.large.is_being_cut() => {}
                None => return,
            }
        }
    }

    fn send(&mut self, burst: &mut Burst<MbufBuffer>) {
        let trains = Trains::of(|index| burst[index].bytes(), burst.len());
        let mut refused = [false; BURST];
        for train in trains.iter() {
            if !self.write(&trains, train, burst) {
                trains.frames(train).for_each(|index| refused[index] = true);
            }
        }
        let mut index = 0..;
        burst.retain(|_| index.next().is_some_and(|index: usize| refused[index]));
    }

    fn allocate(&mut self, len: usize) -> Option<MbufBuffer> {
        buffer::allocate(self.pool, len)
    }
}
