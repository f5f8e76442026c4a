//! Setting and undoing one change in the kernel, by the way that the kernel has for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use netlink_packet_route::link::{LinkAttribute, LinkFlags};

use super::ethtool::Ethtool;
use super::guard::Guard;
use super::journal::Entry;
use super::plan::{Change, HostPlan, TAP_QUEUE_LEN, TapPlan};
use super::route::{Interface, Rtnetlink};
use super::{Error, sysctl, tap};

/// What a TAP of ours is known by, also where its journal was lost.
pub(super) const ALIAS: &str = "baton host port";

/// The ways to the kernel. What a kernel may lack is optional.
pub(super) struct Kernel {
    rtnetlink: Rtnetlink,
    ethtool: Option<Ethtool>,
    guard: Option<Guard>,
    /// The features that are on, by interface, as far as they were read in this pass.
    features: BTreeMap<String, BTreeSet<String>>,
}

/// What is there before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing: undoing is removing.
    Nothing,
    /// A value, to be put back.
    Value(u32),
    /// What is wanted already: there is nothing to change and nothing to undo.
    AsWanted,
}

impl Kernel {
    pub(super) fn open() -> Result<Kernel, Error> {
        Ok(Kernel {
            rtnetlink: Rtnetlink::open().map_err(Error::kernel("opening rtnetlink"))?,
            ethtool: Ethtool::open().ok(),
            guard: Guard::open().ok(),
            features: BTreeMap::new(),
        })
    }

    pub(super) fn find(&mut self, name: &str) -> Result<Option<Interface>, Error> {
        self.rtnetlink.interface(name).map_err(Error::kernel(format!("reading the interface {name}")))
    }

    pub(super) fn interface(&mut self, name: &str) -> Result<Interface, Error> {
        self.find(name)?.ok_or_else(|| Error::NoSuchInterface { name: name.into() })
    }

    pub(super) fn addresses(&mut self) -> Result<Vec<(Ipv4Addr, u32)>, Error> {
        self.rtnetlink.addresses().map_err(Error::kernel("reading the addresses"))
    }

    /// Begins a pass over all changes: what was read in an earlier one may have changed since.
    pub(super) fn look_anew(&mut self) {
        self.features.clear();
    }

    /// Whether an offload feature is on. Off is what the kernel cannot say, too: without ethtool's family.
    fn feature(&mut self, interface: &str, feature: &str) -> Result<bool, Error> {
        if !self.features.contains_key(interface) {
            let active = match self.ethtool.as_mut().map(|ethtool| ethtool.active(interface)) {
                None => BTreeSet::new(),
                Some(Err(error)) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => BTreeSet::new(),
                Some(active) => active.map_err(Error::kernel(format!("reading the offloads of {interface}")))?,
            };
            self.features.insert(interface.into(), active);
        }
        Ok(self.features.get(interface).is_some_and(|active| active.contains(feature)))
    }

    pub(super) fn before(&mut self, change: &Change) -> Result<Before, Error> {
        Ok(match change {
            Change::FeatureOff { interface, feature } => match self.feature(interface, feature)? {
                true => Before::Value(1),
                false => Before::AsWanted,
            },
            Change::Promiscuous { interface } => Before::Value(self.interface(interface)?.promiscuous.into()),
            Change::Setting { interface, name, least } => match sysctl::in_force(interface, name) {
                // A kernel that does not know the setting does not do what it forbids.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Before::AsWanted,
                Ok(value) if value >= *least => Before::AsWanted,
                value => Before::Value(value.map_err(Error::kernel(change))?),
            },
            _ => Before::Nothing,
        })
    }

    /// Sets a change unless it is set, and says whether it was not.
    pub(super) fn set(&mut self, change: &Change, plan: &HostPlan, warnings: &mut Vec<String>) -> Result<bool, Error> {
        let failed = Error::kernel(change);
        match change {
            Change::FeatureOff { interface, feature } => self.set_feature_off(interface, feature, warnings),
            Change::Promiscuous { .. } => Ok(false),
            Change::Setting { interface, name, least } => match sysctl::in_force(interface, name) {
                Ok(value) if value >= *least => Ok(false),
                _ => sysctl::write(interface, name, *least).map(|()| true).map_err(failed),
            },
            Change::Guard { tap, vips } => Ok(self.set_guard(tap, vips, warnings)),
            Change::Tap { .. } => match &plan.tap {
                Some(tap) => self.set_tap(tap),
                None => Ok(false),
            },
            Change::Rule { from, priority, table } => self.rtnetlink.add_rule(*from, *priority, *table).map_err(failed),
            Change::Route(route) => self.rtnetlink.add_route(route).map_err(failed),
            Change::Address { interface, address, prefix, prefix_route } => {
                let index = self.interface(interface)?.index;
                self.rtnetlink.add_address(index, *address, *prefix, *prefix_route).map_err(failed)
            }
        }
    }

    fn set_feature_off(&mut self, interface: &str, feature: &str, warnings: &mut Vec<String>) -> Result<bool, Error> {
        if !self.feature(interface, feature)? {
            return Ok(false);
        }
        // A driver may refuse, or oblige in words alone.
        let asked = self.ethtool.as_mut().map_or(Ok(()), |ethtool| ethtool.set(interface, feature, false));
        self.features.remove(interface);
        let stays = asked.is_err() || self.feature(interface, feature)?;
        if stays {
            warn(
                warnings,
                format!("{interface} does not let go of {feature}: merged frames will be dropped as oversize"),
            );
        }
        Ok(!stays)
    }

    /// Without nftables the rest still keeps the VIP quiet on the wire; what is then open is said in a warning.
    fn set_guard(&mut self, tap: &str, vips: &[Ipv4Addr], warnings: &mut Vec<String>) -> bool {
        let set = match &mut self.guard {
            None => Err(io::ErrorKind::Unsupported.into()),
            Some(guard) => guard.ensure(tap, vips),
        };
        set.unwrap_or_else(|error| {
            warn(
                warnings,
                format!(
                    "no packet filter guards the VIPs ({error}): the kernel may answer ARP for them on interfaces \
                     other than the wire's, and takes packets for them that bear the wire's own MAC"
                ),
            );
            false
        })
    }

    fn set_tap(&mut self, plan: &TapPlan) -> Result<bool, Error> {
        let name = &plan.name;
        let failed = |what: &str| Error::kernel(format!("{what} the TAP interface {name}"));
        let found = self.find(name)?;
        let missing = found.is_none();
        let tap = match found {
            Some(tap) => tap,
            None => {
                tap::make_persistent(name, plan.multi_queue).map_err(failed("making"))?;
                // Before it is up, so that no router solicitation or listener report ever leaves it.
                sysctl::disable_ipv6(name).map_err(failed("turning IPv6 off on"))?;
                self.interface(name)?
            }
        };
        let mut attributes = Vec::new();
        if tap.alias != ALIAS {
            attributes.push(LinkAttribute::IfAlias(ALIAS.into()));
        }
        attributes.extend(plan.mac.filter(|mac| *mac != tap.mac).map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.extend(plan.mtu.filter(|mtu| *mtu != tap.mtu).map(LinkAttribute::Mtu));
        if tap.queue_len < TAP_QUEUE_LEN {
            attributes.push(LinkAttribute::TxQueueLen(TAP_QUEUE_LEN));
        }
        if attributes.is_empty() && tap.up {
            return Ok(missing);
        }
        self.rtnetlink.set_interface(tap.index, attributes, &[(LinkFlags::Up, true)]).map_err(failed("setting"))?;
        Ok(true)
    }

    /// Undoes one change. What is gone already counts as undone.
    pub(super) fn undo(&mut self, entry: &Entry) -> Result<(), Error> {
        let failed = Error::kernel(format!("undoing: {}", entry.change));
        let undone = match &entry.change {
            Change::FeatureOff { interface, feature } => match &mut self.ethtool {
                Some(ethtool) if entry.before == Some(1) => ethtool.set(interface, feature, true),
                _ => Ok(()),
            },
            Change::Promiscuous { interface } if entry.before == Some(0) => match self.find(interface)? {
                Some(found) if found.promiscuous => {
                    self.rtnetlink.set_interface(found.index, Vec::new(), &[(LinkFlags::Promisc, false)])
                }
                _ => Ok(()),
            },
            Change::Promiscuous { .. } => Ok(()),
            Change::Setting { interface, name, least } => match (sysctl::read(interface, name), entry.before) {
                // Set otherwise since: that is somebody's wish.
                (Ok(value), Some(before)) if value == *least => sysctl::write(interface, name, before),
                _ => Ok(()),
            },
            Change::Guard { tap, .. } => self.guard.as_mut().map_or(Ok(()), |guard| guard.lower(tap)),
            Change::Tap { name, .. } => match self.find(name)? {
                Some(tap) if tap.tun && tap.alias == ALIAS => self.rtnetlink.delete_interface(tap.index),
                _ => Ok(()),
            },
            Change::Rule { from, priority, table } => self.rtnetlink.delete_rule(*from, *priority, *table),
            Change::Route(route) => self.rtnetlink.delete_route(route),
            Change::Address { interface, address, prefix, .. } => match self.find(interface)? {
                Some(found) => self.rtnetlink.delete_address(found.index, *address, *prefix),
                None => Ok(()),
            },
        };
        match undone {
            Err(error) if is_gone(&error) => Ok(()),
            undone => undone.map_err(failed),
        }
    }
}

/// Whether what was to be removed is not there: ENOENT of a rule, ESRCH of a route, EADDRNOTAVAIL of an address,
/// ENODEV of an interface.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENODEV))
}

fn warn(warnings: &mut Vec<String>, warning: String) {
    if !warnings.contains(&warning) {
        tracing::warn!("{warning}");
        warnings.push(warning);
    }
}
