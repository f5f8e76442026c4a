"""Frames as the captures hold them, and the few views of them that the checks judge by."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
ETHERTYPE_IPV4, ETHERTYPE_ARP = 0x0800, 0x0806
_TCP_PORTS_AND_NUMBERS = Struct("!HHII")


def mac_text(raw: bytes) -> str:
    """As `ip` writes it."""
    return raw.hex(":")


def ip_text(raw: bytes) -> str:
    """Dotted."""
    return ".".join(str(byte) for byte in raw)


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP segment."""

    source: tuple[str, int]
    destination: tuple[str, int]
    sequence: int
    acknowledgement: int
    flags: int
    payload: int
    """Bytes of payload, by the IP header's length (the capture may hold fewer)."""


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP message for IPv4 over Ethernet."""

    operation: int
    sender_mac: str
    sender_ip: str
    target_ip: str


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it came into the switch."""

    time: int
    """Nanoseconds since 1970."""
    host: str
    """Whose port it came in on."""
    raw: bytes
    length: int
    """Its length on the wire; `raw` may hold less."""

    @property
    def source(self) -> str:
        """Ethernet source."""
        return mac_text(self.raw[6:12])

    @property
    def destination(self) -> str:
        """Ethernet destination."""
        return mac_text(self.raw[0:6])

    @property
    def ethertype(self) -> int:
        """EtherType."""
        return int.from_bytes(self.raw[12:14], "big")

    def arp(self) -> Arp | None:
        """Its ARP message, if it is one."""
        if self.ethertype != ETHERTYPE_ARP or len(self.raw) < 42:
            return None
        body = self.raw[14:42]
        return Arp(int.from_bytes(body[6:8], "big"), mac_text(body[8:14]), ip_text(body[14:18]), ip_text(body[24:28]))

    def tcp(self) -> Tcp | None:
        """Its TCP segment, if it is one (the first or only fragment of one)."""
        raw = self.raw
        if raw[12:14] != b"\x08\x00" or len(raw) < 54 or raw[23] != 6:
            return None
        header = 14 + (raw[14] & 0x0F) * 4
        if len(raw) < header + 14:
            return None
        source_port, destination_port, sequence, acknowledgement = _TCP_PORTS_AND_NUMBERS.unpack_from(raw, header)
        total = int.from_bytes(raw[16:18], "big")
        return Tcp(
            (ip_text(raw[26:30]), source_port),
            (ip_text(raw[30:34]), destination_port),
            sequence,
            acknowledgement,
            raw[header + 13],
            total - (header - 14) - (raw[header + 12] >> 4) * 4,
        )
