//! The guard: packet filter rules that let the kernel know a VIP through the TAP interface and through nothing else.
//!
//! The VIP is a local address, and Linux serves a local address on every interface (the weak host model): it would
//! take packets for it from the wire's interface if a frame bears that interface's own MAC, and answer ARP for it
//! anywhere. Two nftables tables named after the TAP close this for all interfaces, also those made later. They stay
//! when baton dies. As `nft list ruleset` shows them:
//!
//! ```text
//! table ip baton-vip0 {
//!   chain in  { type filter hook prerouting priority -300;
//!               ip daddr VIP iifname != "vip0" iifname != "lo" drop }
//!   chain out { type filter hook output priority -300;
//!               ip saddr VIP oifname != "vip0" oifname != "lo" drop }
//! }
//! table arp baton-vip0 {
//!   chain in  { type filter hook input priority 0;  arp daddr ip VIP iifname != "vip0" drop }
//!   chain out { type filter hook output priority 0; arp saddr ip VIP oifname != "vip0" drop }
//! }
//! ```
//!
//! Packet sockets, which is what DPDK's af_packet reads, see frames before these rules do.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, HookNumber, Immediate, ListAttribute, Meta,
    MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
    Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netlink::Netlink;

// include/uapi/linux/netfilter.h, netfilter_arp.h and netfilter/nf_tables.h
const SUBSYSTEM_NFTABLES: u16 = 10;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_ARP_IN: u32 = 0;
const NF_ARP_OUT: u32 = 1;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const PAYLOAD_NETWORK_HEADER: u32 = 1;

/// One chain of the guard: where it hooks in, and which field of the packet is compared with the VIPs.
struct Chain {
    family: NetfilterProtoFamily,
    name: &'static str,
    hook: u32,
    priority: i32,
    /// Where the address is in the network header, in bytes.
    offset: u32,
    /// Which interface is compared with the TAP.
    side: MetaKey,
    /// Whether what stays on this machine passes.
    loopback: bool,
}

const CHAINS: [Chain; 4] = [
    Chain {
        family: NetfilterProtoFamily::IPv4,
        name: "in",
        hook: NF_INET_PRE_ROUTING,
        // Before connection tracking, which has no business with what is dropped.
        priority: -300,
        // RFC 791, section 3.1: the destination.
        offset: 16,
        side: MetaKey::Iifname,
        loopback: true,
    },
    Chain {
        family: NetfilterProtoFamily::IPv4,
        name: "out",
        hook: NF_INET_LOCAL_OUT,
        priority: -300,
        // The source.
        offset: 12,
        side: MetaKey::Oifname,
        loopback: true,
    },
    Chain {
        family: NetfilterProtoFamily::ARP,
        name: "in",
        hook: NF_ARP_IN,
        priority: 0,
        // RFC 826 for Ethernet and IPv4: the target's protocol address.
        offset: 24,
        side: MetaKey::Iifname,
        loopback: false,
    },
    Chain {
        family: NetfilterProtoFamily::ARP,
        name: "out",
        hook: NF_ARP_OUT,
        priority: 0,
        // The sender's protocol address.
        offset: 14,
        side: MetaKey::Oifname,
        loopback: false,
    },
];

/// nftables, in the network namespace of the thread that opened it.
pub(super) struct Guard {
    netlink: Netlink,
    /// The TAP and VIPs of the last guard raised through this.
    raised: Option<(String, Vec<Ipv4Addr>)>,
}

impl Guard {
    pub(super) fn open() -> io::Result<Guard> {
        Ok(Guard { netlink: Netlink::open(NETLINK_NETFILTER)?, raised: None })
    }

    /// Puts the guard of a TAP up unless it stands as this raised it, and says whether it did. One that is there is
    /// replaced, with no moment in between.
    pub(super) fn ensure(&mut self, tap: &str, vips: &[Ipv4Addr]) -> io::Result<bool> {
        let same = self.raised.as_ref().is_some_and(|(name, addresses)| name == tap && addresses == vips);
        if same && self.stands(tap)? {
            return Ok(false);
        }
        self.raise(tap, vips)?;
        self.raised = Some((tap.into(), vips.into()));
        Ok(true)
    }

    fn raise(&mut self, tap: &str, vips: &[Ipv4Addr]) -> io::Result<()> {
        let mut messages = Vec::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::ARP] {
            // Deleting needs a table: made first, if there is none.
            messages.push((of(family, NfTablesMessage::NewTable(table(tap))), NLM_F_CREATE));
            messages.push((of(family, NfTablesMessage::DeleteTable(table(tap))), 0));
            messages.push((of(family, NfTablesMessage::NewTable(table(tap))), NLM_F_CREATE));
        }
        for chain in &CHAINS {
            messages.push((of(chain.family, NfTablesMessage::NewChain(chain.message(tap))), NLM_F_CREATE));
            for &vip in vips {
                let rule = NfTablesMessage::NewRule(chain.rule(tap, vip));
                messages.push((of(chain.family, rule), NLM_F_CREATE | NLM_F_APPEND));
            }
        }
        self.commit(messages)
    }

    /// Takes the guard of a TAP down, if it is up.
    pub(super) fn lower(&mut self, tap: &str) -> io::Result<()> {
        let mut messages = Vec::new();
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::ARP] {
            messages.push((of(family, NfTablesMessage::NewTable(table(tap))), NLM_F_CREATE));
            messages.push((of(family, NfTablesMessage::DeleteTable(table(tap))), 0));
        }
        self.commit(messages)
    }

    /// Whether both tables of a TAP's guard are there: a flush of the firewall takes them away.
    fn stands(&mut self, tap: &str) -> io::Result<bool> {
        for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::ARP] {
            match self.netlink.request(of(family, NfTablesMessage::GetTable(table(tap))), 0, |_| {}) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                asked => asked?,
            }
        }
        Ok(true)
    }

    fn commit(&mut self, messages: Vec<(NetfilterMessage, u16)>) -> io::Result<()> {
        let control = |message| {
            let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM_NFTABLES);
            NetfilterMessage::new(header, message)
        };
        self.netlink.transaction(control(ControlMessage::BatchBegin), messages, control(ControlMessage::BatchEnd))
    }
}

impl Chain {
    fn message(&self, tap: &str) -> ChainMessage {
        ChainMessage {
            attributes: vec![
                ChainAttribute::Table(table_name(tap)),
                ChainAttribute::Name(self.name.into()),
                ChainAttribute::Policy(NF_ACCEPT),
                ChainAttribute::Type("filter".into()),
                ChainAttribute::Hook(vec![
                    Hook::Number(HookNumber::Other(self.hook)),
                    Hook::Priority(self.priority as u32),
                ]),
            ],
        }
    }

    /// The address is compared first: for nearly every packet it is the only comparison.
    fn rule(&self, tap: &str, vip: Ipv4Addr) -> RuleMessage {
        let mut expressions = vec![
            Expressions::Payload(vec![
                Payload::DestinationRegister(Register::Reg1),
                Payload::Base(PAYLOAD_NETWORK_HEADER),
                Payload::Offset(self.offset),
                Payload::Len(4),
            ])
            .into(),
            compare(Operator::Equal, vip.octets().to_vec()),
            Expressions::Meta(vec![Meta::DestinationRegister(Register::Reg1), Meta::Key(self.side)]).into(),
            compare(Operator::NotEqual, interface_name(tap)),
        ];
        if self.loopback {
            expressions.push(compare(Operator::NotEqual, interface_name("lo")));
        }
        expressions.push(
            Expressions::Immediate(vec![
                Immediate::DestinationRegister(Register::Verdict),
                Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_DROP))])),
            ])
            .into(),
        );
        RuleMessage {
            attributes: vec![
                RuleAttribute::Table(table_name(tap)),
                RuleAttribute::Chain(self.name.into()),
                RuleAttribute::Expressions(expressions),
            ],
        }
    }
}

/// The name of both tables of a TAP's guard.
pub(super) fn table_name(tap: &str) -> String {
    format!("baton-{tap}")
}

fn table(tap: &str) -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name(table_name(tap))] }
}

fn of(family: NetfilterProtoFamily, message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

fn compare(
    operator: Operator,
    value: Vec<u8>,
) -> ListAttribute<netlink_packet_netfilter::nftables::ExpressionAttribute> {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
    .into()
}

/// An interface's name as nftables compares it: `IFNAMSIZ` bytes, zeros after the name.
fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(libc::IFNAMSIZ, 0);
    bytes
}
