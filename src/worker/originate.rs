//! What a worker sends that did not come to it as a frame: SYNs that it kept, heartbeats, RSTs to orphans.

use super::Worker;
use crate::frame::tcp::Reset;
use crate::frame::{ethernet, tcp};
use crate::orphans::Suspect;
use crate::port::{BURST, Buffer, Port};
use crate::time::Time;

/// Kept SYNs looked at in one turn: so many that a takeover is quick, so few that others' frames need not wait.
const LOOKS: usize = 4 * BURST;

impl<W: Port, H: Port<Buffer = W::Buffer>> Worker<W, H> {
    /// Hands kept SYNs to the host that it is now this member's turn to answer.
    pub(super) fn release_kept(&mut self, now: Time) -> usize {
        self.kept.follow(&self.member.shared, &self.member.facts);
        let mut released = 0;
        let mut looks = LOOKS;
        while !self.to_host.is_full()
            && let Some(syn) = self.kept.next_due(now, &mut looks)
        {
            if !self.member.decider(false, now).release(&syn.tuple, syn.client_isn) {
                continue;
            }
            let Some(mut buffer) = self.host.allocate(syn.frame().len()) else {
                // The client's retransmission goes to the host then.
                self.counters.unsent.add(1);
                continue;
            };
            let frame = buffer.bytes_mut();
            frame.copy_from_slice(syn.frame());
            ethernet::set_destination(frame, self.member.facts.own_mac);
            tcp::blank_fast_open(frame);
            self.counters.originated.add(1);
            self.to_host.push(buffer);
            released += 1;
        }
        if released > 0 {
            self.flush();
        }
        released
    }

    /// Sends what the control thread has put into the outbox. Any worker may: a heartbeat then leaves at once.
    pub(super) fn send_heartbeats(&mut self) -> usize {
        let mut sent = 0;
        while !self.to_wire.is_full()
            && let Some(heartbeat) = self.member.shared.outbox.pop()
        {
            let Some(mut buffer) = self.wire.allocate(heartbeat.bytes().len()) else {
                self.counters.unsent.add(1);
                continue;
            };
            buffer.bytes_mut().copy_from_slice(heartbeat.bytes());
            self.counters.originated.add(1);
            self.to_wire.push(buffer);
            sent += 1;
        }
        if sent > 0 {
            self.flush();
        }
        sent
    }

    /// Sends a RST to each client that the control thread has found to be an orphan and that still is one. Its sequence
    /// number is what the client expects next, which is the only one at which it counts (RFC 5961, 3.2).
    pub(super) fn reset_orphans(&mut self, now: Time) -> usize {
        let mut sent = 0;
        while !self.to_wire.is_full()
            && let Some(Suspect { suspicion, mac }) = self.member.shared.orphans.pop()
        {
            if !self.member.decider(false, now).is_orphan(&suspicion) {
                continue;
            }
            // Without a buffer the client waits until its next repeat.
            let Some(mut buffer) = self.wire.allocate(tcp::RESET_FRAME) else { break };
            let facts = &self.member.facts;
            let reset = Reset {
                macs: (mac, facts.own_mac),
                source: (facts.vips[usize::from(suspicion.tuple.vip)].address, suspicion.tuple.port),
                destination: (suspicion.tuple.client, suspicion.tuple.client_port),
                seq: suspicion.ack,
                ack: Some(suspicion.end),
            };
            tcp::write_reset(buffer.bytes_mut(), &reset);
            self.counters.originated.add(1);
            self.counters.orphans_reset.add(1);
            self.to_wire.push(buffer);
            sent += 1;
        }
        if sent > 0 {
            self.flush();
        }
        sent
    }
}
