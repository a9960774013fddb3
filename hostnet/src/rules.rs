//! Policy routing rules (`ip rule`).

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, IpProtocol, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange},
};

use crate::{
    Netlink, Result,
    addresses::family,
    error::{exists_is_fine, gone_is_fine},
    routes::PROTO_PODPLANE,
};

/// What a rule does that looks no table up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Goes on with the rule of this preference, which lies behind.
    Goto(u32),
    /// Nothing: others go on with it.
    Nop,
    /// Drops the packet.
    Blackhole,
    /// Something that is not made here.
    Unknown,
}

/// A rule, most often one that looks a table up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// IPv6 or IPv4, where neither `src` nor `dst` says it.
    pub v6: bool,
    /// Preference: lower ones are asked first.
    pub preference: u32,
    /// Destination.
    pub dst: Option<IpNet>,
    /// Source.
    pub src: Option<IpNet>,
    /// Input device; "lo" stands for packets that the node itself sends.
    pub iif: Option<String>,
    /// Output device.
    pub oif: Option<String>,
    /// Transport protocol number.
    pub ip_proto: Option<u8>,
    /// Destination ports, both inclusive.
    pub dports: Option<(u16, u16)>,
    /// Source ports, both inclusive.
    pub sports: Option<(u16, u16)>,
    /// Firewall mark and mask.
    pub mark: Option<(u32, u32)>,
    /// Table that is looked up; `None`: the rule does what `other` says.
    pub table: Option<u32>,
    /// What it does where it looks no table up.
    pub other: Option<Other>,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
}

impl Rule {
    /// A rule of Podplane's that sends everything of a family to `table`.
    pub fn new(v6: bool, preference: u32, table: u32) -> Self {
        Rule {
            v6,
            preference,
            dst: None,
            src: None,
            iif: None,
            oif: None,
            ip_proto: None,
            dports: None,
            sports: None,
            mark: None,
            table: Some(table),
            other: None,
            protocol: PROTO_PODPLANE,
        }
    }

    /// A rule of Podplane's that looks no table up.
    pub fn other(v6: bool, preference: u32, other: Other) -> Self {
        Rule { table: None, other: Some(other), ..Rule::new(v6, preference, 0) }
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        let net = self.dst.or(self.src);
        let of_flag = if self.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.family = net.map_or(of_flag, |n| family(n.addr()));
        message.header.action = match self.other {
            None | Some(Other::Unknown) => RuleAction::ToTable,
            Some(Other::Goto(_)) => RuleAction::Goto,
            Some(Other::Nop) => RuleAction::Nop,
            Some(Other::Blackhole) => RuleAction::Blackhole,
        };
        message.header.dst_len = self.dst.map_or(0, |n| n.prefix_len());
        message.header.src_len = self.src.map_or(0, |n| n.prefix_len());
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(self.preference));
        attributes.push(RuleAttribute::Protocol(RouteProtocol::from(self.protocol)));
        attributes.extend(self.table.map(RuleAttribute::Table));
        if let Some(Other::Goto(preference)) = self.other {
            attributes.push(RuleAttribute::Goto(preference));
        }
        attributes.extend(self.dst.map(|n| RuleAttribute::Destination(n.addr())));
        attributes.extend(self.src.map(|n| RuleAttribute::Source(n.addr())));
        attributes.extend(self.iif.clone().map(RuleAttribute::Iifname));
        attributes.extend(self.oif.clone().map(RuleAttribute::Oifname));
        attributes.extend(self.ip_proto.map(|p| RuleAttribute::IpProtocol(IpProtocol::from(p))));
        let range = |(start, end)| RulePortRange { start, end };
        attributes.extend(self.dports.map(|r| RuleAttribute::DestinationPortRange(range(r))));
        attributes.extend(self.sports.map(|r| RuleAttribute::SourcePortRange(range(r))));
        if let Some((mark, mask)) = self.mark {
            attributes.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask)]);
        }
        message
    }
}

impl Netlink {
    /// Adds a rule. An equal one is there: no error.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        let what = || format!("add the rule with preference {}", rule.preference);
        exists_is_fine(self.change(what, NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewRule(rule.message())))
    }

    /// Removes a rule. Not there: no error.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<()> {
        let what = || format!("remove the rule with preference {}", rule.preference);
        gone_is_fine(self.change(what, 0, RouteNetlinkMessage::DelRule(rule.message())))
    }

    /// All rules of both families, in order of preference.
    pub fn rules(&mut self) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            for reply in self.dump(|| "list rules".into(), RouteNetlinkMessage::GetRule(message))? {
                if let RouteNetlinkMessage::NewRule(message) = reply {
                    rules.push(rule_of(message));
                }
            }
        }
        Ok(rules)
    }
}

fn rule_of(message: RuleMessage) -> Rule {
    let header = message.header;
    let mut rule = Rule::new(header.family == AddressFamily::Inet6, 0, u32::from(header.table));
    rule.protocol = 0;
    let (mut mark, mut mask, mut goto) = (None, None, None);
    let net = |address: IpAddr, length: u8| IpNet::new(address, length).ok();
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Priority(p) => rule.preference = p,
            RuleAttribute::Protocol(p) => rule.protocol = p.into(),
            RuleAttribute::Table(t) => rule.table = Some(t),
            RuleAttribute::Destination(a) => rule.dst = net(a, header.dst_len),
            RuleAttribute::Source(a) => rule.src = net(a, header.src_len),
            RuleAttribute::Iifname(name) => rule.iif = Some(name),
            RuleAttribute::Oifname(name) => rule.oif = Some(name),
            RuleAttribute::IpProtocol(p) => rule.ip_proto = Some(p.into()),
            RuleAttribute::DestinationPortRange(r) => rule.dports = Some((r.start, r.end)),
            RuleAttribute::SourcePortRange(r) => rule.sports = Some((r.start, r.end)),
            RuleAttribute::Goto(preference) => goto = Some(preference),
            RuleAttribute::FwMark(v) => mark = Some(v),
            RuleAttribute::FwMask(v) => mask = Some(v),
            _ => {}
        }
    }
    rule.mark = mark.map(|m| (m, mask.unwrap_or(u32::MAX)));
    if header.action != RuleAction::ToTable {
        rule.table = None;
        rule.other = Some(match (header.action, goto) {
            (RuleAction::Goto, Some(preference)) => Other::Goto(preference),
            (RuleAction::Nop, _) => Other::Nop,
            (RuleAction::Blackhole, _) => Other::Blackhole,
            _ => Other::Unknown,
        });
    }
    rule
}
