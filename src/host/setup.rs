//! Brings the host side up, keeps it up, and undoes it.

use std::path::Path;

use super::Error;
use super::journal::{Entry, Journal, Refusal};
use super::kernel::{ALIAS, Before, Kernel};
use super::plan::{Change, HostPlan};
use super::route::Interface;
use crate::frame::Mac;

/// The host side of a running member. Dropped without [`HostSide::undo`], everything stays as it is: so does a member
/// that is about to return keep its connections.
pub struct HostSide {
    plan: HostPlan,
    kernel: Kernel,
    journal: Journal,
    adopted: bool,
    warnings: Vec<String>,
}

impl HostSide {
    /// Makes the kernel's side as the plan says, adopting what an earlier run left at the same journal and undoing
    /// what of it is no longer asked for. The calling thread's network namespace counts.
    ///
    /// To be called before the host port is opened: it makes the TAP that the port attaches to.
    pub fn raise(plan: &HostPlan, journal: &Path) -> Result<HostSide, Error> {
        require_capability()?;
        let (journal, warning) = Journal::open(journal).map_err(|refusal| match refusal {
            Refusal::Held => Error::Busy { journal: journal.into() },
            Refusal::Io(source) => Error::Journal { path: journal.into(), source },
        })?;
        let adopted = !journal.entries().is_empty();
        let mut host = HostSide {
            plan: plan.clone(),
            kernel: Kernel::open()?,
            journal,
            adopted,
            warnings: warning.into_iter().collect(),
        };
        host.check()?;
        let wanted = plan.changes();
        let stale = |entry: &&Entry| !wanted.iter().any(|change| change.replaces(&entry.change));
        let leftover: Vec<Entry> = host.journal.entries().iter().filter(stale).cloned().collect();
        host.undo_all(leftover)?;
        match host.ensure() {
            Ok(_) => Ok(host),
            // What an earlier run left keeps a broken member quiet: it stays. A first start leaves nothing half done.
            Err(error) if adopted => Err(error),
            Err(error) => {
                if let Err(further) = host.undo() {
                    tracing::warn!("while undoing what was set: {further}");
                }
                Err(error)
            }
        }
    }

    /// To be called once the host port is open: the port's driver may have set a MAC and an MTU of its own, and a
    /// restarted link has lost its routes.
    pub fn attached(&mut self, mac: Mac, mtu: u32) -> Result<(), Error> {
        if let Some(tap) = &mut self.plan.tap {
            tap.mac = Some(mac);
            tap.mtu = Some(mtu);
        }
        self.ensure().map(drop)
    }

    /// Sets again what is missing, and says what was: other programs (firewalls, network managers) may have removed
    /// it. A few system calls when all is well.
    pub fn ensure(&mut self) -> Result<Vec<String>, Error> {
        self.kernel.look_anew();
        let mut repaired = Vec::new();
        for change in self.plan.changes() {
            if self.journal.find(&change).is_none_or(|entry| entry.change != change) {
                let before = self.kernel.before(&change)?;
                if before == Before::AsWanted {
                    continue;
                }
                self.record(&change, before)?;
            }
            if self.kernel.set(&change, &self.plan, &mut self.warnings)? {
                repaired.push(change.to_string());
            }
        }
        Ok(repaired)
    }

    /// Undoes everything, in reverse. To be called after the ports are closed. What cannot be undone is left in the
    /// journal, and the first reason is returned.
    pub fn undo(mut self) -> Result<(), Error> {
        let entries = self.journal.entries().to_vec();
        self.undo_all(entries)?;
        let path = self.journal.path().to_owned();
        self.journal.close().map_err(|source| Error::Journal { path, source })
    }

    /// Whether an earlier run's host side was found and kept.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// What could not be had and is not fatal, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The TAP interface as it is now, if the plan has one.
    pub fn tap(&mut self) -> Result<Option<Interface>, Error> {
        match &self.plan.tap {
            None => Ok(None),
            Some(tap) => self.kernel.interface(&tap.name).map(Some),
        }
    }

    /// Refuses what cannot go well before anything is changed.
    fn check(&mut self) -> Result<(), Error> {
        if let Some(wire) = &self.plan.wire {
            self.kernel.interface(&wire.interface)?;
        }
        let Some(plan) = self.plan.tap.clone() else { return Ok(()) };
        let tap = self.kernel.find(&plan.name)?;
        if let Some(tap) = &tap {
            if !tap.tun || tap.alias != ALIAS {
                return Err(Error::NameTaken { name: plan.name.clone() });
            }
            if tap.carrier {
                return Err(Error::TapInUse { name: plan.name.clone() });
            }
        }
        let ours: Vec<u32> = tap.iter().map(|tap| tap.index).chain(self.leftover_taps()?).collect();
        let addresses = self.kernel.addresses()?;
        for vip in &plan.vips {
            let elsewhere = |&&(address, index): &&(_, u32)| address == vip.address && !ours.contains(&index);
            if let Some((address, index)) = addresses.iter().find(elsewhere) {
                return Err(Error::AddressElsewhere { address: *address, index: *index });
            }
        }
        Ok(())
    }

    /// TAPs of an earlier configuration, which are about to go.
    fn leftover_taps(&mut self) -> Result<Vec<u32>, Error> {
        let mut indices = Vec::new();
        for entry in self.journal.entries() {
            if let Change::Tap { name, .. } = &entry.change {
                indices.extend(self.kernel.find(name)?.map(|tap| tap.index));
            }
        }
        Ok(indices)
    }

    fn record(&mut self, change: &Change, before: Before) -> Result<(), Error> {
        let before = match before {
            Before::Value(value) => Some(value),
            Before::Nothing | Before::AsWanted => None,
        };
        self.journal
            .record(change, before)
            .map_err(|source| Error::Journal { path: self.journal.path().into(), source })
    }

    fn undo_all(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let mut first = None;
        for entry in entries.iter().rev() {
            match self.kernel.undo(entry) {
                Ok(()) => self
                    .journal
                    .strike(&entry.change)
                    .map_err(|source| Error::Journal { path: self.journal.path().into(), source })?,
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// CAP_NET_ADMIN (bit 12 of the effective set), said before the first refusal of many.
fn require_capability() -> Result<(), Error> {
    let status = std::fs::read_to_string("/proc/thread-self/status").map_err(Error::kernel("reading capabilities"))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    if effective & 1 << 12 == 0 { Err(Error::NotPermitted) } else { Ok(()) }
}
