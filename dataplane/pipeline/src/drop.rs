//! Every reason for which a packet is dropped. Names are stable: dashboards and people rely on them.

use podplane_packet::parse::ParseError;

/// Declares the reasons once: variant, stable name, what it means and what to do.
macro_rules! reasons {
    ($($variant:ident $name:literal $explain:literal;)*) => {
        /// Why a packet was dropped. Every drop has one; there is no "other".
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $explain] $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their indices.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable kebab-case name.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// One sentence for people: what happened and, where something can be done, what.
            pub const fn explain(self) -> &'static str {
                match self { $(DropReason::$variant => $explain,)* }
            }

            /// The reason with this name.
            pub fn from_name(name: &str) -> Option<DropReason> {
                Self::ALL.iter().copied().find(|r| r.name() == name)
            }

            /// Whether policy forbade the packet.
            pub const fn is_policy(self) -> bool {
                matches!(self, DropReason::PolicyIngress | DropReason::PolicyEgress)
            }

            /// Index into arrays of [`DropReason::COUNT`] counters.
            #[inline]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

reasons! {
    FrameTooShort "frame-too-short" "The frame is shorter than an Ethernet header.";
    VlanTruncated "vlan-truncated" "An 802.1Q tag is cut short.";
    VlanTooDeep "vlan-too-deep" "More than two 802.1Q tags.";
    ArpMalformed "arp-malformed" "An ARP packet is cut short, or not for IPv4 over Ethernet.";
    Ipv4Truncated "ipv4-truncated" "The frame ends within the IPv4 header.";
    Ipv4BadVersion "ipv4-bad-version" "The EtherType says IPv4, the version field does not.";
    Ipv4BadHeaderLength "ipv4-bad-header-length" "An IPv4 header length below 20 bytes.";
    Ipv4BadTotalLength "ipv4-bad-total-length" "An IPv4 total length below the header length.";
    Ipv4ExceedsFrame "ipv4-exceeds-frame" "The IPv4 total length goes beyond the frame.";
    Ipv4BadChecksum "ipv4-bad-checksum" "The IPv4 header checksum is wrong.";
    Ipv4BadOption "ipv4-bad-option" "An IPv4 option contradicts its own length.";
    Ipv4SourceRoute "ipv4-source-route" "IPv4 source routing (refused, RFC 7126 section 4.3).";
    Ipv6Truncated "ipv6-truncated" "The frame ends within the IPv6 header.";
    Ipv6BadVersion "ipv6-bad-version" "The EtherType says IPv6, the version field does not.";
    Ipv6ExceedsFrame "ipv6-exceeds-frame" "The IPv6 payload length goes beyond the frame.";
    Ipv6ExtensionTruncated "ipv6-extension-truncated" "The chain of IPv6 extension headers is cut short.";
    Ipv6TooManyExtensions "ipv6-too-many-extensions" "Too many IPv6 extension headers.";
    Ipv6ExtensionMisplaced "ipv6-extension-misplaced" "An IPv6 extension header stands where it may not.";
    Ipv6SourceRoute "ipv6-source-route" "An IPv6 type 0 routing header (refused, RFC 5095).";
    FragmentMalformed "fragment-malformed" "A fragment with an impossible offset or length, or one over the TCP header (RFC 1858).";
    FragmentSplitsTransport "fragment-splits-transport" "A first fragment without the whole transport header (RFC 7112, RFC 1858).";
    L4Truncated "l4-truncated" "The packet ends within its transport header.";
    TcpBadOffset "tcp-bad-offset" "A TCP data offset below 20 bytes.";
    UdpBadLength "udp-bad-length" "A UDP length below 8 or beyond the packet.";
    HeadersSplit "headers-split" "The headers go beyond the buffer's first segment: a fault of the receiving port driver.";
    IcmpQuoteMalformed "icmp-quote-malformed" "An ICMP error does not quote enough of a packet to know its flow.";

    UnknownPort "unknown-port" "The packet came in by a port that the configuration in force does not know: the pod was removed, or is not configured yet.";
    NotConfigured "not-configured" "Routed traffic arrived before the agent sent this node's configuration: check that podplane-agent runs.";

    SpoofedMac "spoofed-mac" "A pod sent a frame whose source MAC is not its own.";
    SpoofedIpv4 "spoofed-ipv4" "A pod sent an IPv4 packet whose source address is not its own.";
    SpoofedIpv6 "spoofed-ipv6" "A pod sent an IPv6 packet whose source address is neither its own nor, for neighbour discovery or echo with the gateway, link-local.";
    SpoofedArp "spoofed-arp" "A pod sent an ARP packet that claims a MAC or an address that is not its own.";
    SpoofedNd "spoofed-nd" "A pod sent a neighbour discovery packet that claims a MAC or an address that is not its own.";
    RouterAdvertisementFromPod "router-advertisement-from-pod" "A pod sent an IPv6 router advertisement.";
    RedirectFromPod "redirect-from-pod" "A pod sent an ICMP redirect.";
    SpoofedFromHost "spoofed-from-host" "The node's own stack sent a packet in the name of a pod or of another node, whose packets come by their ports or through the tunnel: check the node's forwarding rules.";
    SpoofedFromUplink "spoofed-from-uplink" "A packet came plain by the uplink in the name of a pod or of this node: check who else uses their addresses.";
    NotToGateway "not-to-gateway" "A pod sent a frame to a MAC other than the gateway's; pods have no other neighbour.";
    VlanTagged "vlan-tagged" "A frame for the routed path carried an 802.1Q tag.";
    EtherTypeUnsupported "ethertype-unsupported" "A pod sent a frame that is neither ARP nor IPv4 nor IPv6.";
    ArpNotForGateway "arp-not-for-gateway" "A pod asked by ARP for an address other than its gateway's (or sent a reply or a probe): pods reach everything through the gateway.";
    NdNotForGateway "nd-not-for-gateway" "A pod asked by neighbour discovery for an address other than its gateway's (or announced itself): pods reach everything through the gateway.";
    NdRouterSolicitation "nd-router-solicitation" "A pod asked for routers; its routes are static.";
    NdMalformed "nd-malformed" "A neighbour discovery packet broke RFC 4861 section 7.1 (hop limit, code, options).";
    Multicast "multicast" "Multicast or broadcast reached the routed path, which carries unicast only (MLD reports of pods are counted here).";
    LinkLocalForwarded "link-local-forwarded" "A packet with a link-local source or destination would have had to cross a router.";
    Martian "martian" "The source or destination is loopback, unspecified or reserved and cannot appear on a wire.";

    VxlanFromHost "vxlan-from-host" "A process of the node, or a Service whose backend is another node's VXLAN port, sent VXLAN to another node of the cluster, which would take it for ours.";
    VxlanOuterFragment "vxlan-outer-fragment" "A fragment of a VXLAN packet for us: the underlay must carry it whole (raise its MTU or lower the pods').";
    VxlanBadHeader "vxlan-bad-header" "A VXLAN header without the I flag (RFC 7348 section 5) or cut short.";
    VxlanUnknownPeer "vxlan-unknown-peer" "VXLAN from an address that is no node of this cluster: stale configuration or an intruder.";
    VxlanWrongVni "vxlan-wrong-vni" "VXLAN from a node of this cluster with another network identifier: two clusters share the underlay, or the VNI was changed on some nodes only.";
    VxlanGso "vxlan-gso" "A merged VXLAN frame reached the pipeline; the uplink driver must split it first.";
    VxlanInnerNotIp "vxlan-inner-not-ip" "The tunnelled frame is neither IPv4 nor IPv6.";
    VxlanInnerMac "vxlan-inner-mac" "The tunnelled frame is not addressed to the gateway's MAC: the sender is not Podplane.";
    VxlanInnerSource "vxlan-inner-source" "The tunnelled packet's source does not route to the node that sent it.";
    VxlanNotLocal "vxlan-not-local" "The tunnelled packet's destination is neither a pod of this node nor the node: the sender's routes are stale.";
    EcnIllegal "ecn-illegal" "Congestion was marked on the tunnel of a packet that does not understand it (RFC 6040 section 4.2).";

    NoRoute "no-route" "No pod, node or pod range holds the destination address.";
    NoSuchPod "no-such-pod" "The destination lies in this node's pod range, but no pod holds the address.";
    Hairpin "hairpin" "The packet would have to leave by the port it came in on.";
    PortDown "port-down" "The destination's port is gone.";
    NextHopUnresolved "next-hop-unresolved" "The MAC of the peer node's next hop is not known yet: the node's kernel is still resolving it, or the peer is down.";
    TtlExceeded "ttl-exceeded" "The TTL or hop limit ran out; the sender was told.";
    TooBig "too-big" "Too big for the next hop and not to be fragmented; the sender was told the path MTU.";
    FragmentationFailed "fragmentation-failed" "Too big for the next hop, and could not be cut into fragments (UDP GSO, or its options leave no room).";
    TooLong "too-long" "The packet does not fit an IP packet once encapsulated.";
    NoHeadroom "no-headroom" "The buffer has no room for the outer headers: a fault of the receiving port driver.";
    NoBuffers "no-buffers" "The buffer pool is exhausted: give the dataplane more hugepages.";

    ServiceUnallocated "service-unallocated" "The destination lies in a ServiceCIDR, but no Service has the address.";
    ServiceRefused "service-refused" "The Service has no usable endpoint, or does not offer the port; the sender was told.";
    ServiceNoLocalEndpoint "service-no-local-endpoint" "The Service sends clients outside to endpoints of this node only (externalTrafficPolicy: Local), and there is none here.";
    ServiceSource "service-source" "The client is not among the Service's loadBalancerSourceRanges.";
    EntryConflict "entry-conflict" "A new connection came by another entry node while one with the same client, ports and backend is alive.";
    NoMasqueradePort "no-masquerade-port" "All ports that may be given to what leaves the cluster are in use toward this remote.";
    NotMasqueradable "not-masqueradable" "A protocol without ports would have had to be masqueraded.";
    NeighbourUnresolved "neighbour-unresolved" "The neighbour on the uplink's network did not answer in time: it is down, or the route to it is wrong.";
    NeighbourQueueFull "neighbour-queue-full" "Too many packets wait for neighbours on the uplink's network.";
    Untranslatable "untranslatable" "The packet's headers contradict themselves, so its addresses and ports could not be translated.";
    SctpFragment "sctp-fragment" "A fragment of an SCTP packet would have had to be given other ports, which changes a checksum over bytes that are not in it.";

    FragmentOverlap "fragment-overlap" "Fragments of one packet overlap; the whole packet is refused (RFC 5722, RFC 8900).";
    FragmentDuplicate "fragment-duplicate" "An exact duplicate of a fragment.";
    FragmentTooLong "fragment-too-long" "Fragments add up to more than an IP packet holds.";
    FragmentEndConflict "fragment-end-conflict" "Fragments disagree on where their packet ends.";
    FragmentTooMany "fragment-too-many" "One packet has more fragments than are allowed.";
    FragmentTableFull "fragment-table-full" "Too many fragmented packets at once.";
    FragmentPortLimit "fragment-port-limit" "Too many fragmented packets of this port at once.";
    FragmentHeldFull "fragment-held-full" "Too many fragments wait for their first one.";
    FragmentPortHeldFull "fragment-port-held-full" "Too many fragments of this port wait for their first one.";
    FragmentTimeout "fragment-timeout" "A held fragment whose first fragment did not come in time.";

    IcmpForGateway "icmp-for-gateway" "ICMP to a gateway address other than an echo request.";
    GatewayNoService "gateway-no-service" "A packet for a gateway address, which offers nothing but echo.";
    IcmpTypeUnsupported "icmp-type-unsupported" "An ICMP message other than echo and errors.";
    IcmpErrorWithoutFlow "icmp-error-without-flow" "An ICMP error about a packet of no known flow.";

    PolicyIngress "policy-ingress" "The pod's policy does not accept this from that client; counted at the pod that it was for.";
    PolicyEgress "policy-egress" "The pod's policy does not let it open this to that destination; counted at the pod that sent it.";
    NotJudged "not-judged" "A packet was about to leave without proof that somebody judged it: a fault of ours.";
    FlowTableFull "flow-table-full" "The worker's flow table is full; established flows go on.";
    FlowQuota "flow-quota" "The pod has as many flows as it may; its established flows go on.";
    FlowCollision "flow-collision" "Another flow holds the reply's tuple.";
    FlowRefused "flow-refused" "The worker that owns the reply's direction refused the flow, or its half was withdrawn.";
    FlowKeySelf "flow-key-self" "A packet whose source and destination (address and port) are the same.";
    HalfQueueFull "half-queue-full" "The queue of flow halves to another worker is full.";
    HandOverQueueFull "hand-over-queue-full" "The queue of packets to the worker that owns this one is full.";

    TxQueueFull "tx-queue-full" "The egress port's queue is full: its reader is slower than its senders.";
    TxDevice "tx-device" "The egress device refused the packet.";
    BadOffload "bad-offload" "The packet's offload metadata contradicts its bytes: a fault of the receiving port driver, or a hostile guest.";
    RxTruncated "rx-truncated" "The receiving device delivered the packet cut short.";
    LinearTooLong "linear-too-long" "The egress device takes a packet in one buffer only, which holds 16 KiB at most: lower the MTU.";
}

/// Maps each parse error to the reason of the same name.
macro_rules! parse_errors {
    ($($variant:ident)*) => {
        impl From<ParseError> for DropReason {
            fn from(e: ParseError) -> DropReason {
                match e { $(ParseError::$variant => DropReason::$variant,)* }
            }
        }

        impl DropReason {
            /// Whether the reason is that the packet's bytes make no packet.
            pub const fn is_parse_error(self) -> bool {
                matches!(self, $(DropReason::$variant)|*)
            }
        }
    };
}

parse_errors! {
    FrameTooShort
    VlanTruncated
    VlanTooDeep
    ArpMalformed
    Ipv4Truncated
    Ipv4BadVersion
    Ipv4BadHeaderLength
    Ipv4BadTotalLength
    Ipv4ExceedsFrame
    Ipv4BadChecksum
    Ipv4BadOption
    Ipv4SourceRoute
    Ipv6Truncated
    Ipv6BadVersion
    Ipv6ExceedsFrame
    Ipv6ExtensionTruncated
    Ipv6TooManyExtensions
    Ipv6ExtensionMisplaced
    Ipv6SourceRoute
    FragmentMalformed
    FragmentSplitsTransport
    L4Truncated
    TcpBadOffset
    UdpBadLength
    HeadersSplit
    IcmpQuoteMalformed
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_kebab_case_and_found_again() {
        let mut seen = HashSet::new();
        for (i, &r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(r.index(), i);
            assert!(seen.insert(r.name()), "{} twice", r.name());
            assert!(
                r.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{}",
                r.name()
            );
            assert_eq!(DropReason::from_name(r.name()), Some(r));
            assert!(r.explain().ends_with('.'), "{} is no sentence", r.name());
        }
        assert_eq!(DropReason::from_name("other"), None);
    }

    #[test]
    fn parse_errors_have_a_reason_each() {
        let reasons: HashSet<_> = ParseError::ALL.iter().map(|e| DropReason::from(*e)).collect();
        assert_eq!(reasons.len(), ParseError::ALL.len());
        let all: HashSet<_> = DropReason::ALL.iter().copied().filter(|r| r.is_parse_error()).collect();
        assert_eq!(all, reasons);
    }
}
