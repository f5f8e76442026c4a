//! Every fate of a frame has a name here, and is counted under it.

use crate::named::named;
use crate::table::VipIndex;

/// What becomes of a frame. Eight bytes, so that it stays in a register; who carries it out has the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the host, its Ethernet destination now the host's.
    ToHost,
    /// To the host as it came: it was never for a VIP.
    Untouched,
    /// To the host, its Fast Open option blanked.
    SynToHost,
    /// To the wire, with our own MAC as source.
    ToWire,
    /// A RST of the host that ends its connection: to the wire, and its entry is to be looked at.
    ResetToWire,
    /// An ARP message of the host about a VIP: to the wire, with the virtual MAC in its payload.
    ArpToWire(VipIndex),
    /// A heartbeat: to the control thread.
    ToControl,
    /// An ARP request for a VIP: answered in its own buffer.
    AnswerArp(VipIndex),
    /// An echo request: answered in its own buffer.
    AnswerEcho,
    /// A SYN to a port that is not served: refused (RST) in its own buffer.
    Refuse,
    /// Dropped for this reason, and its buffer used for a RST to the host that clears the half-open connection of its
    /// tuple whose client began at this sequence number.
    ClearHalfOpen(u32, DropReason),
    /// Dropped, and the kernel's socket for its tuple is to end without a word to the client: another member owns it.
    EndSocket,
    /// Dropped for this reason, and kept as a SYN of this sequence number, for the host to get it later.
    Keep(u32, DropReason),
    /// Dropped for this reason, and the control thread is to find out whose client it is that repeats itself in vain, and
    /// has sent all up to this sequence number.
    Suspect(u32, DropReason),
    /// Dropped.
    Drop(DropReason),
}

const _: () = assert!(size_of::<Verdict>() == 8);

named! {
    /// Why a frame was dropped.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[repr(u8)]
    pub enum DropReason;
    /// The name in `status` and the label in the metrics.
    name;

    // From the wire: what is not for us.
    /// Shorter than an Ethernet header.
    Runt = "runt",
    /// Longer than a buffer: several segments, or cut off on reception. A merged frame (GRO, LRO), most likely.
    Oversize = "oversize",
    /// Its Ethernet source is our own MAC: the wire's interface showed us what this machine sent.
    OwnFrame = "own_frame",
    /// Its Ethernet destination is neither ours nor a group's: the switch flooded it.
    NotForUs = "not_for_us",
    /// Not for a VIP, and for us: the kernel shares the wire's interface and has it already.
    KernelHasIt = "kernel_has_it",
    /// To the virtual MAC, but to an address that is not this VIP's.
    WrongAddress = "wrong_address",
    /// To a VIP, but not to its virtual MAC: other members do not see such a frame.
    WrongMac = "wrong_mac",

    // Malformed.
    /// An IPv4 header that cannot be, or whose checksum is wrong.
    BadIp = "bad_ip",
    /// A TCP header that cannot be, or flags that contradict each other.
    BadTcp = "bad_tcp",
    /// An ARP message that cannot be.
    BadArp = "bad_arp",
    /// An ICMP message that cannot be, or whose checksum is wrong.
    BadIcmp = "bad_icmp",
    /// A TCP checksum that is wrong.
    BadChecksum = "bad_checksum",
    /// A TCP checksum that an interface was to finish and has not (checksum offload on a virtual wire).
    UnfinishedChecksum = "unfinished_checksum",

    // Heartbeats.
    /// The control thread's inbox was full.
    InboxFull = "inbox_full",
    /// The control thread's list of requests was full; the kernel's socket ends by its own timers.
    NoticesFull = "notices_full",

    // ARP.
    /// A gratuitous ARP for a VIP, from the host or from the wire.
    GratuitousArp = "gratuitous_arp",
    /// An ARP reply of the host about a VIP: the worker answers, nobody else.
    ArpFromHost = "arp_from_host",

    // TCP.
    /// A SYN, and we are passive for the VIP.
    SynPassive = "syn_passive",
    /// A SYN that is left to the actives of lower rank for a while; kept, and handed to the host if they do not answer.
    SynHedged = "syn_hedged",
    /// A segment of no connection of ours.
    NoConnection = "no_connection",
    /// A segment of a connection whose handshake another member has won.
    LostRace = "lost_race",
    /// The first segment that shows that another member owns a tuple of which we held an old connection.
    TakenOver = "taken_over",
    /// A RST of a client that is not at the only sequence number where it counts.
    ResetOutOfWindow = "reset_out_of_window",
    /// A SYN to a port that is not listed in `ports`; the primary refuses it, the others drop it.
    PortNotServed = "port_not_served",
    /// A SYN that found the connection table full.
    TableFull = "table_full",
    /// A SYN beyond those whose answers the host's queue has room for: it answers faster than it can be heard.
    HostBusy = "host_busy",
    /// A SYN whose place in the handshake table other workers were writing at that very instant.
    Crowded = "crowded",
    /// A refusal of the host, held back because another member may be about to accept.
    RefusalHeld = "refusal_held",
    /// A RST of the host for no connection of ours.
    StrayReset = "stray_reset",

    // Other protocols.
    /// An ICMP error about no connection of ours, or a message that nobody here waits for.
    IcmpNotOurs = "icmp_not_ours",
    /// An ICMP echo request that another member answers.
    EchoPassive = "echo_passive",
    /// A protocol that is not served at a VIP.
    ProtocolNotServed = "protocol_not_served",
    /// A later fragment whose first fragment was dropped or not seen.
    Fragment = "fragment",
    /// A first fragment that would have to decide something, which a part of a segment cannot.
    FragmentUndecided = "fragment_undecided",

    // From the host.
    /// Not from a VIP, where the kernel has its own way to the wire.
    HostNoise = "host_noise",

    // On the way out.
    /// The wire's queue was full.
    WireFull = "wire_full",
    /// The host's queue was full.
    HostFull = "host_full",
}

/// How many reasons there are.
pub const DROPS: usize = DropReason::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DROPS);
        for (number, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        for contract in ["syn_passive", "no_connection", "lost_race", "oversize", "bad_checksum", "kernel_has_it"] {
            assert!(names.contains(&contract), "{contract}");
        }
    }
}
