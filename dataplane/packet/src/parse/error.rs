//! Why a frame could not be parsed.

/// Each has its drop reason in the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ParseError {
    /// Shorter than an Ethernet header.
    #[error("shorter than an Ethernet header")]
    FrameTooShort,
    /// A VLAN tag is announced and does not fit the frame.
    #[error("802.1Q tag cut short")]
    VlanTruncated,
    /// More than two VLAN tags.
    #[error("more than two 802.1Q tags")]
    VlanTooDeep,
    /// An ARP packet cut short, or not for IPv4 over Ethernet.
    #[error("malformed ARP packet")]
    ArpMalformed,
    /// The frame ends within the IPv4 header.
    #[error("IPv4 header cut short")]
    Ipv4Truncated,
    /// EtherType IPv4, version field other than 4.
    #[error("IPv4 version field is not 4")]
    Ipv4BadVersion,
    /// A header length below 20 bytes.
    #[error("IPv4 header length below 20")]
    Ipv4BadHeaderLength,
    /// The total length is below the header's.
    #[error("IPv4 total length below the header length")]
    Ipv4BadTotalLength,
    /// The total length goes beyond the frame.
    #[error("IPv4 total length beyond the frame")]
    Ipv4ExceedsFrame,
    /// The header checksum is wrong.
    #[error("IPv4 header checksum wrong")]
    Ipv4BadChecksum,
    /// An option contradicts its own length.
    #[error("malformed IPv4 option")]
    Ipv4BadOption,
    /// Loose or strict source routing, refused as RFC 7126 section 4.3 advises.
    #[error("IPv4 source routing")]
    Ipv4SourceRoute,
    /// The frame ends within the fixed IPv6 header.
    #[error("IPv6 header cut short")]
    Ipv6Truncated,
    /// EtherType IPv6, version field other than 6.
    #[error("IPv6 version field is not 6")]
    Ipv6BadVersion,
    /// The payload length goes beyond the frame.
    #[error("IPv6 payload length beyond the frame")]
    Ipv6ExceedsFrame,
    /// The chain of extension headers goes beyond the packet.
    #[error("IPv6 extension headers cut short")]
    Ipv6ExtensionTruncated,
    /// More extension headers than [`MAX_EXTENSIONS`](crate::wire::ipv6::MAX_EXTENSIONS).
    #[error("too many IPv6 extension headers")]
    Ipv6TooManyExtensions,
    /// Hop-by-hop options not in first place, or two fragment headers.
    #[error("IPv6 extension header where it may not be")]
    Ipv6ExtensionMisplaced,
    /// A type 0 routing header with segments left (RFC 5095).
    #[error("IPv6 source routing")]
    Ipv6SourceRoute,
    /// A fragment whose end lies beyond 65,535 bytes, whose length is no multiple of 8 though more follow, that carries
    /// nothing, or that lies over the TCP header (RFC 1858).
    #[error("impossible fragment offset or length")]
    FragmentMalformed,
    /// A first fragment that lacks part of the extension headers or of the transport header (RFC 7112, RFC 1858).
    #[error("first fragment without the whole transport header")]
    FragmentSplitsTransport,
    /// The packet ends within the transport header.
    #[error("transport header cut short")]
    L4Truncated,
    /// A TCP data offset below 20 bytes.
    #[error("TCP data offset below 20")]
    TcpBadOffset,
    /// A UDP length below 8 or beyond the packet.
    #[error("UDP length below 8 or beyond the packet")]
    UdpBadLength,
    /// The headers go beyond the first segment although the packet is longer: a fault of the receiving driver.
    #[error("headers go beyond the buffer's first segment")]
    HeadersSplit,
    /// An ICMP error that quotes too little, or no IP packet.
    #[error("ICMP error without a usable quotation")]
    IcmpQuoteMalformed,
}

impl ParseError {
    /// All errors, for maps to drop reasons.
    pub const ALL: &'static [ParseError] = &[
        ParseError::FrameTooShort,
        ParseError::VlanTruncated,
        ParseError::VlanTooDeep,
        ParseError::ArpMalformed,
        ParseError::Ipv4Truncated,
        ParseError::Ipv4BadVersion,
        ParseError::Ipv4BadHeaderLength,
        ParseError::Ipv4BadTotalLength,
        ParseError::Ipv4ExceedsFrame,
        ParseError::Ipv4BadChecksum,
        ParseError::Ipv4BadOption,
        ParseError::Ipv4SourceRoute,
        ParseError::Ipv6Truncated,
        ParseError::Ipv6BadVersion,
        ParseError::Ipv6ExceedsFrame,
        ParseError::Ipv6ExtensionTruncated,
        ParseError::Ipv6TooManyExtensions,
        ParseError::Ipv6ExtensionMisplaced,
        ParseError::Ipv6SourceRoute,
        ParseError::FragmentMalformed,
        ParseError::FragmentSplitsTransport,
        ParseError::L4Truncated,
        ParseError::TcpBadOffset,
        ParseError::UdpBadLength,
        ParseError::HeadersSplit,
        ParseError::IcmpQuoteMalformed,
    ];
}
