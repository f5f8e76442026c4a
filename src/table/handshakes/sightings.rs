//! The records of a bucket that have a tag, one after the other.

use std::time::Duration;

use super::super::headers::SLOTS;
use super::super::record::{AnswerWords, Header, Record};
use super::{Handshakes, Identity};
use crate::time::Time;

/// A record found in a bucket.
#[derive(Clone, Copy)]
pub struct Sighting {
    pub slot: usize,
    pub header: Header,
    pub age: u32,
    pub identity: Identity,
    pub answers: AnswerWords,
}

impl Sighting {
    pub fn record(&self) -> Option<Record> {
        Some(Record {
            slot: self.slot as u32,
            header: self.header,
            client_isn: (self.identity.rest >> 32) as u32,
            stage: self.header.stage()?,
            age: Duration::from_millis(self.age.into()),
            answers: self.answers.of(self.header),
        })
    }
}

/// See [`Handshakes::sightings`].
pub struct Sightings<'a> {
    pub ring: &'a Handshakes,
    pub bucket: usize,
    pub tag: u64,
    pub now: Time,
    /// Slots that have the tag and were not looked at, as bits.
    pub candidates: u32,
}

impl Sightings<'_> {
    /// The record in a slot, if it is one of ours.
    #[inline]
    fn look(&self, slot: usize) -> Option<Sighting> {
        let header = self.ring.header(slot);
        if !header.has_tag(self.tag) {
            return None;
        }
        let age = header.age(self.now)?;
        let (identity, answers) = self.ring.read(slot, header)?;
        Some(Sighting { slot, header, age, identity, answers })
    }
}

impl Iterator for Sightings<'_> {
    type Item = Sighting;

    #[inline]
    fn next(&mut self) -> Option<Sighting> {
        while self.candidates != 0 {
            let within = self.candidates.trailing_zeros() as usize;
            self.candidates &= self.candidates - 1;
            let slot = self.bucket * SLOTS + within;
            if let Some(sighting) = self.look(slot) {
                return Some(sighting);
            }
            // Gone. If its remover saw another of the same SYN (see `remember`), so must we, and the first look may
            // have been too early.
            self.candidates = self.ring.buckets[self.bucket].headers.candidates(self.tag) & !1 << within;
        }
        None
    }
}
