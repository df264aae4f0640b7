//! The table in netlink messages, and back.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_APPEND, NLM_F_CREATE, NlasIterator};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions,
    Hook as WireHook, Immediate, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey,
    NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, SetAttribute,
    SetElementAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute,
    TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use super::ruleset::{Action, BY_ADDRESS, BY_PORT, Chain, ChainKind, Condition, Hook, Rule};
use crate::interface::InterfaceName;
use crate::names::fnv1a;
use crate::netlink::Request;
use crate::ports::Protocol;
use crate::subnet::Subnet;

const SUBSYSTEM_NFTABLES: u16 = 10;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const MSG_BATCH_BEGIN: u8 = 16;
const BATCH_GENERATION: u16 = 1;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;
const DESTINATION_PORT_OFFSET: u32 = 2;

const FIB_REGISTER: u16 = 1;
const FIB_RESULT: u16 = 2;
const FIB_FLAGS: u16 = 3;
const FIB_RESULT_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const RTN_LOCAL: u32 = 2;

const CT_REGISTER: u16 = 1;
const CT_KEY: u16 = 2;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const STATE_ESTABLISHED_RELATED: u32 = 0x6;
const STATUS_DESTINATION_TRANSLATED: u32 = 0x20;

const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS: u16 = 3;
const NAT_PORT: u16 = 5;
const NAT_DESTINATION: u32 = 1;
const FAMILY_IPV4: u32 = 2;

/// Types of fields as `nft` numbers them; the kernel only keeps them.
const TYPE_ADDRESS: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_BITS: u32 = 6;
/// Fields of a concatenation take whole registers of four bytes.
const BY_ADDRESS_KEY: u32 = 12;
const BY_PORT_KEY: u32 = 8;
const TARGET: u32 = 8;

/// Kinds of user data of a rule: a comment as `nft` shows it, and our digest,
/// which `nft` skips.
const USER_COMMENT: u8 = 0;
const USER_DIGEST: u8 = 0x53;

/// The header that every nftables message begins with, and that of an attribute.
pub(super) const FAMILY_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
const RULE_CHAIN: u16 = 2;
const RULE_USER_DATA: u16 = 7;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;

/// An attribute's length has 16 bits, and an element takes 40 bytes.
const ELEMENTS_PER_MESSAGE: usize = 1000;

pub(super) type Message = Request<NetfilterMessage>;

pub(super) fn message(inner: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
        inner,
    )
}

pub(super) fn any_family(inner: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
        inner,
    )
}

/// Begins a transaction that fails when another one came between.
pub(super) fn batch_begin(generation: u32) -> NetfilterMessage {
    control(ControlMessage::Other {
        message_type: MSG_BATCH_BEGIN,
        attributes: vec![be32(BATCH_GENERATION, generation)],
    })
}

pub(super) fn batch_end() -> NetfilterMessage {
    control(ControlMessage::BatchEnd)
}

fn control(message: ControlMessage) -> NetfilterMessage {
    NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM_NFTABLES),
        message,
    )
}

pub(super) fn new_table(table: &str) -> Message {
    (
        message(NfTablesMessage::NewTable(named_table(table))),
        NLM_F_CREATE,
    )
}

pub(super) fn delete_table(table: &str) -> Message {
    (message(NfTablesMessage::DeleteTable(named_table(table))), 0)
}

pub(super) fn named_table(table: &str) -> TableMessage {
    TableMessage {
        attributes: vec![TableAttribute::Name(table.to_owned())],
    }
}

pub(super) fn new_chain(table: &str, chain: &Chain) -> Message {
    let attributes = vec![
        ChainAttribute::Table(table.to_owned()),
        ChainAttribute::Name(chain.name.to_owned()),
        ChainAttribute::Type(kind_name(chain.kind).to_owned()),
        ChainAttribute::Policy(NF_ACCEPT),
        ChainAttribute::Hook(vec![
            WireHook::Number(hook_number(chain.hook).into()),
            WireHook::Priority(chain.priority.cast_unsigned()),
        ]),
    ];
    (
        message(NfTablesMessage::NewChain(ChainMessage { attributes })),
        NLM_F_CREATE,
    )
}

pub(super) fn kind_name(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
    }
}

fn hook_number(hook: Hook) -> InetHookNumber {
    match hook {
        Hook::Prerouting => InetHookNumber::PreRouting,
        Hook::Forward => InetHookNumber::Forward,
        Hook::Output => InetHookNumber::LocalOut,
        Hook::Postrouting => InetHookNumber::PostRouting,
    }
}

/// A base chain as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenChain {
    pub(super) table: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) hook: Option<u32>,
    pub(super) priority: i32,
    pub(super) drops: bool,
}

impl SeenChain {
    pub(super) fn is(&self, chain: &Chain) -> bool {
        self.name == chain.name
            && self.kind == kind_name(chain.kind)
            && self.hook == Some(hook_number(chain.hook).into())
            && self.priority == chain.priority
            && !self.drops
    }

    pub(super) fn filters_forwarded(&self) -> bool {
        self.kind == "filter" && self.hook == Some(InetHookNumber::Forward.into())
    }

    pub(super) fn read(chain: ChainMessage) -> Self {
        let mut seen = Self {
            table: String::new(),
            name: String::new(),
            kind: String::new(),
            hook: None,
            priority: 0,
            drops: false,
        };
        for attribute in chain.attributes {
            match attribute {
                ChainAttribute::Table(table) => seen.table = table,
                ChainAttribute::Name(name) => seen.name = name,
                ChainAttribute::Type(kind) => seen.kind = kind,
                ChainAttribute::Policy(policy) => seen.drops = policy == NF_DROP,
                ChainAttribute::Hook(parts) => {
                    for part in parts {
                        match part {
                            WireHook::Number(number) => seen.hook = Some(number.into()),
                            WireHook::Priority(priority) => seen.priority = priority.cast_signed(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        seen
    }
}

pub(super) fn new_rule(table: &str, chain: &str, rule: &Rule) -> Message {
    let expressions = expressions(rule);
    let mut user_data = vec![USER_COMMENT, text_length(rule.comment)];
    user_data.extend_from_slice(rule.comment.as_bytes());
    user_data.push(0);
    user_data.extend_from_slice(&[USER_DIGEST, 8]);
    user_data.extend_from_slice(&digest_of(&expressions).to_be_bytes());
    let attributes = vec![
        RuleAttribute::Table(table.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions),
        RuleAttribute::UserData(user_data),
    ];
    (
        message(NfTablesMessage::NewRule(RuleMessage { attributes })),
        NLM_F_CREATE | NLM_F_APPEND,
    )
}

fn text_length(comment: &str) -> u8 {
    u8::try_from(comment.len() + 1).expect("comments are short literals")
}

/// Returns the mark by which a rule of ours is known again: the kernel gives
/// expressions back in another shape than it took them.
pub(super) fn digest(rule: &Rule) -> u64 {
    digest_of(&expressions(rule))
}

fn digest_of(expressions: &[ListAttribute<ExpressionAttribute>]) -> u64 {
    let mut bytes = vec![0; expressions.buffer_len()];
    expressions.emit(&mut bytes);
    fnv1a(&bytes)
}

/// Reads chain and mark of a listed rule; no mark when it is not ours.
///
/// Read from the bytes: the codec would decode every expression.
pub(super) fn read_rule(payload: &[u8]) -> (String, Option<u64>) {
    let mut chain = String::new();
    let mut digest = None;
    for (kind, value) in attributes(payload.get(FAMILY_HEADER..).unwrap_or_default()) {
        match kind {
            RULE_CHAIN => {
                chain = String::from_utf8_lossy(value)
                    .trim_end_matches('\0')
                    .to_owned();
            }
            RULE_USER_DATA => digest = read_digest(value),
            _ => {}
        }
    }
    (chain, digest)
}

fn read_digest(mut data: &[u8]) -> Option<u64> {
    while let [kind, length, rest @ ..] = data {
        let (value, others) = rest.split_at_checked(usize::from(*length))?;
        if *kind == USER_DIGEST {
            return value.try_into().ok().map(u64::from_be_bytes);
        }
        data = others;
    }
    None
}

fn expressions(rule: &Rule) -> Vec<ListAttribute<ExpressionAttribute>> {
    let mut list = Vec::new();
    for condition in &rule.conditions {
        match condition {
            Condition::Source(subnet) => in_subnet(&mut list, SOURCE_OFFSET, *subnet),
            Condition::Destination(subnet) => in_subnet(&mut list, DESTINATION_OFFSET, *subnet),
            Condition::From(name) => interface(&mut list, MetaKey::Iifname, Operator::Equal, name),
            Condition::NotFrom(name) => {
                interface(&mut list, MetaKey::Iifname, Operator::NotEqual, name);
            }
            Condition::To(name) => interface(&mut list, MetaKey::Oifname, Operator::Equal, name),
            Condition::NotTo(name) => {
                interface(&mut list, MetaKey::Oifname, Operator::NotEqual, name);
            }
            Condition::Established => connection(&mut list, CT_STATE, STATE_ESTABLISHED_RELATED),
            Condition::Translated => {
                connection(&mut list, CT_STATUS, STATUS_DESTINATION_TRANSLATED);
            }
            Condition::ToHost => {
                list.push(other(
                    "fib",
                    vec![
                        be32(FIB_REGISTER, u32::from(Register::Reg1)),
                        be32(FIB_RESULT, FIB_RESULT_ADDRESS_TYPE),
                        be32(FIB_FLAGS, FIB_DESTINATION),
                    ],
                ));
                list.push(compare(Operator::Equal, RTN_LOCAL.to_ne_bytes().to_vec()));
            }
        }
    }
    match rule.action {
        Action::Accept => list.push(verdict(NF_ACCEPT)),
        Action::Drop => list.push(verdict(NF_DROP)),
        Action::Masquerade => list.push(other("masq", Vec::new())),
        Action::TranslateByAddress => {
            list.push(protocol());
            list.push(load(
                NETWORK_HEADER,
                DESTINATION_OFFSET,
                4,
                Register::Reg32_01,
            ));
            list.push(load(
                TRANSPORT_HEADER,
                DESTINATION_PORT_OFFSET,
                2,
                Register::Reg32_02,
            ));
            translate(&mut list, BY_ADDRESS);
        }
        Action::TranslateByPort => {
            list.push(protocol());
            list.push(load(
                TRANSPORT_HEADER,
                DESTINATION_PORT_OFFSET,
                2,
                Register::Reg32_01,
            ));
            translate(&mut list, BY_PORT);
        }
    }
    list
}

type List = Vec<ListAttribute<ExpressionAttribute>>;

fn in_subnet(list: &mut List, offset: u32, subnet: Subnet) {
    list.push(load(NETWORK_HEADER, offset, 4, Register::Reg1));
    if subnet.prefix() < 32 {
        list.push(masked(octets(subnet.netmask())));
    }
    list.push(compare(Operator::Equal, octets(subnet.network())));
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn interface(list: &mut List, key: MetaKey, operator: Operator, name: &InterfaceName) {
    list.push(
        Expressions::Meta(vec![
            Meta::Key(key),
            Meta::DestinationRegister(Register::Reg1),
        ])
        .into(),
    );
    let mut padded = name.as_str().as_bytes().to_vec();
    padded.resize(InterfaceName::MAX + 1, 0);
    list.push(compare(operator, padded));
}

fn connection(list: &mut List, key: u32, bits: u32) {
    list.push(other(
        "ct",
        vec![
            be32(CT_REGISTER, u32::from(Register::Reg1)),
            be32(CT_KEY, key),
        ],
    ));
    list.push(masked(bits.to_ne_bytes().to_vec()));
    list.push(compare(Operator::NotEqual, vec![0; 4]));
}

fn protocol() -> ListAttribute<ExpressionAttribute> {
    Expressions::Meta(vec![
        Meta::Key(MetaKey::L4Proto),
        Meta::DestinationRegister(Register::Reg1),
    ])
    .into()
}

fn load(
    base: u32,
    offset: u32,
    length: u32,
    register: Register,
) -> ListAttribute<ExpressionAttribute> {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
    .into()
}

fn masked(mask: Vec<u8>) -> ListAttribute<ExpressionAttribute> {
    let zero = vec![0; mask.len()];
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(4),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(zero)),
    ])
    .into()
}

fn compare(operator: Operator, value: Vec<u8>) -> ListAttribute<ExpressionAttribute> {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
    .into()
}

fn verdict(code: u32) -> ListAttribute<ExpressionAttribute> {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(
            Verdict::Other(code),
        )])),
    ])
    .into()
}

fn translate(list: &mut List, map: &str) {
    list.push(
        Expressions::Lookup(vec![
            Lookup::Set(map.to_owned()),
            Lookup::SourceRegister(Register::Reg1),
            Lookup::DestinationRegister(Register::Reg1),
        ])
        .into(),
    );
    list.push(other(
        "nat",
        vec![
            be32(NAT_TYPE, NAT_DESTINATION),
            be32(NAT_FAMILY, FAMILY_IPV4),
            be32(NAT_ADDRESS, u32::from(Register::Reg1)),
            be32(NAT_PORT, u32::from(Register::Reg32_01)),
        ],
    ));
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> ListAttribute<ExpressionAttribute> {
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes,
    }
    .into()
}

fn be32(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// Makes the two maps.
pub(super) fn new_maps(table: &str) -> [Message; 2] {
    let target = (TYPE_ADDRESS << TYPE_BITS) | TYPE_PORT;
    let by_address = (((TYPE_PROTOCOL << TYPE_BITS) | TYPE_ADDRESS) << TYPE_BITS) | TYPE_PORT;
    let by_port = (TYPE_PROTOCOL << TYPE_BITS) | TYPE_PORT;
    [
        (1, BY_ADDRESS, by_address, BY_ADDRESS_KEY),
        (2, BY_PORT, by_port, BY_PORT_KEY),
    ]
    .map(|(id, name, key_type, key_length)| {
        let attributes = vec![
            SetAttribute::Table(table.to_owned()),
            SetAttribute::Name(name.to_owned()),
            SetAttribute::Flags(SetFlags::Map),
            SetAttribute::KeyType(key_type),
            SetAttribute::KeyLen(key_length),
            SetAttribute::DataType(target),
            SetAttribute::DataLen(TARGET),
            SetAttribute::Id(id),
        ];
        (
            message(NfTablesMessage::NewSet(SetMessage { attributes })),
            NLM_F_CREATE,
        )
    })
}

/// Names a map of ours for a request about it.
pub(super) fn named_map(table: &str, map: &str) -> SetElementMessage {
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(table.to_owned()),
            SetElementList::Set(map.to_owned()),
        ],
    }
}

/// Elements as the kernel has them.
pub(super) type RawElement = (Vec<u8>, Vec<u8>);

/// A key of one of the maps, in the kernel's bytes.
pub(super) trait Key {
    fn bytes(&self) -> Vec<u8>;
}

impl Key for (Protocol, Ipv4Addr, u16) {
    fn bytes(&self) -> Vec<u8> {
        let (protocol, address, port) = self;
        [
            [protocol.number(), 0, 0, 0],
            address.octets(),
            padded(*port),
        ]
        .concat()
    }
}

impl Key for (Protocol, u16) {
    fn bytes(&self) -> Vec<u8> {
        let (protocol, port) = self;
        [[protocol.number(), 0, 0, 0], padded(*port)].concat()
    }
}

/// Reads protocol number, port and address (where it has one) from a key.
pub(super) fn read_key(key: &[u8]) -> Option<(u8, u16, Option<Ipv4Addr>)> {
    match *key {
        [protocol, _, _, _, high, low, _, _] => {
            Some((protocol, u16::from_be_bytes([high, low]), None))
        }
        [protocol, _, _, _, a, b, c, d, high, low, _, _] => Some((
            protocol,
            u16::from_be_bytes([high, low]),
            Some(Ipv4Addr::new(a, b, c, d)),
        )),
        _ => None,
    }
}

pub(super) fn element((key, target): (&impl Key, &SocketAddrV4)) -> RawElement {
    (key.bytes(), target_bytes(*target))
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn target_bytes(target: SocketAddrV4) -> Vec<u8> {
    [target.ip().octets(), padded(target.port())].concat()
}

/// Adds elements to a map.
pub(super) fn add_elements(table: &str, map: &str, elements: Vec<RawElement>) -> Vec<Message> {
    in_chunks(table, map, elements, |(key, data)| {
        vec![
            SetElementAttribute::Key(DataAttribute::Value(key)),
            SetElementAttribute::Data(DataAttribute::Value(data)),
        ]
    })
    .map(|elements| {
        (
            message(NfTablesMessage::NewSetElement(elements)),
            NLM_F_CREATE,
        )
    })
    .collect()
}

/// Removes elements from a map by their keys.
pub(super) fn remove_elements(table: &str, map: &str, elements: Vec<RawElement>) -> Vec<Message> {
    in_chunks(table, map, elements, |(key, _)| {
        vec![SetElementAttribute::Key(DataAttribute::Value(key))]
    })
    .map(|elements| (message(NfTablesMessage::DeleteSetElement(elements)), 0))
    .collect()
}

fn in_chunks(
    table: &str,
    map: &str,
    elements: Vec<RawElement>,
    encode: impl Fn(RawElement) -> Vec<SetElementAttribute>,
) -> impl Iterator<Item = SetElementMessage> {
    let mut elements = elements
        .into_iter()
        .map(move |element| ListAttribute::Element(encode(element)));
    std::iter::from_fn(move || {
        let chunk: Vec<_> = elements.by_ref().take(ELEMENTS_PER_MESSAGE).collect();
        (!chunk.is_empty()).then(|| {
            let mut message = named_map(table, map);
            message.attributes.push(SetElementList::Elements(chunk));
            message
        })
    })
}

/// Reads the elements of one message of a listing.
///
/// Read from the bytes: the codec takes time that grows with the square of
/// their number (0.6 s for 1,000 elements).
pub(super) fn read_elements(payload: &[u8]) -> Vec<RawElement> {
    attributes(payload.get(FAMILY_HEADER..).unwrap_or_default())
        .filter(|(kind, _)| *kind == LIST_ELEMENTS)
        .flat_map(|(_, list)| attributes(list))
        .map(|(_, element)| {
            let mut raw = RawElement::default();
            for (kind, value) in attributes(element) {
                let data = attributes(value)
                    .find(|(kind, _)| *kind == DATA_VALUE)
                    .map(|(_, data)| data.to_vec());
                match kind {
                    ELEMENT_KEY => raw.0 = data.unwrap_or_default(),
                    ELEMENT_DATA => raw.1 = data.unwrap_or_default(),
                    _ => {}
                }
            }
            raw
        })
        .collect()
}

/// Walks attributes in their bytes: kind and value.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    // What does not parse ends the list; the table then differs and is made anew.
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| {
            let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
            // The buffer of an attribute goes on to the end of the list.
            (kind, &attribute.into_inner()[ATTRIBUTE_HEADER..end])
        })
}

/// Returns the nftables part of a message.
pub(super) fn inner(message: NetfilterMessage) -> Option<NfTablesMessage> {
    match message.inner {
        NetfilterMessageInner::NfTables(inner) => Some(inner),
        _ => None,
    }
}

/// Returns the family of a message by its name.
pub(super) fn family_name(message: &NetfilterMessage) -> &'static str {
    match message.header.family {
        NetfilterProtoFamily::IPv4 => "ip",
        NetfilterProtoFamily::Inet => "inet",
        _ => "other",
    }
}
