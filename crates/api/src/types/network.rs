//! Networks.

use std::collections::BTreeMap;

use crate::wire;

wire! {
    /// Answer of `POST /networks/prune`.
    pub struct NetworkPruneResponse {
        /// Names; null when there are none.
        "NetworksDeleted" networks_deleted: Option<Vec<String>>,
    }

    /// Networks to connect a new container to.
    pub struct NetworkingConfig {
        /// By network.
        "EndpointsConfig" endpoints_config: BTreeMap<String, EndpointSettings>,
    }

    /// A container's place in a network, as asked for and as it is.
    pub struct EndpointSettings {
        /// Addresses that were asked for.
        "IPAMConfig" ipam_config: Option<EndpointIpamConfig>,
        /// Links in this network.
        "Links" links: Option<Vec<String>>,
        /// Names in this network.
        "Aliases" aliases: Option<Vec<String>>,
        /// Hardware address.
        "MacAddress" mac_address: String,
        /// Options of the driver.
        "DriverOpts" driver_opts: Option<BTreeMap<String, String>>,
        /// The highest one gives the default route. Absent before 1.48.
        omitempty "GwPriority" gw_priority: Option<i64>,
        /// Identity of the network.
        "NetworkID" network_id: String,
        /// Identity of this place.
        "EndpointID" endpoint_id: String,
        /// Gateway.
        "Gateway" gateway: String,
        /// Address.
        "IPAddress" ip_address: String,
        /// Bits of its prefix.
        "IPPrefixLen" ip_prefix_len: i64,
        /// IPv6 gateway.
        "IPv6Gateway" ipv6_gateway: String,
        /// IPv6 address.
        "GlobalIPv6Address" global_ipv6_address: String,
        /// Bits of its prefix.
        "GlobalIPv6PrefixLen" global_ipv6_prefix_len: i64,
        /// Names by which it is found.
        "DNSNames" dns_names: Option<Vec<String>>,
    }

    /// Addresses that were asked for.
    pub struct EndpointIpamConfig {
        /// IPv4.
        omitempty "IPv4Address" ipv4_address: String,
        /// IPv6.
        omitempty "IPv6Address" ipv6_address: String,
        /// Link local.
        omitempty "LinkLocalIPs" link_local_ips: Vec<String>,
    }

    /// Answer of `GET /networks/{id}`, and one line of `GET /networks`.
    pub struct Network {
        /// Name.
        "Name" name: String,
        /// Identity.
        "Id" id: String,
        /// RFC 3339.
        "Created" created: String,
        /// `local`.
        "Scope" scope: String,
        /// Driver.
        "Driver" driver: String,
        /// Has IPv4. Absent before 1.47.
        omitempty "EnableIPv4" enable_ipv4: Option<bool>,
        /// Has IPv6.
        "EnableIPv6" enable_ipv6: bool,
        /// Address management.
        "IPAM" ipam: Ipam,
        /// No way out.
        "Internal" internal: bool,
        /// For services.
        "Attachable" attachable: bool,
        /// For services.
        "Ingress" ingress: bool,
        /// Configuration of other networks.
        "ConfigFrom" config_from: ConfigReference,
        /// Is only configuration.
        "ConfigOnly" config_only: bool,
        /// By container; empty in lists.
        "Containers" containers: BTreeMap<String, NetworkContainer>,
        /// Options of the driver.
        "Options" options: Option<BTreeMap<String, String>>,
        /// Labels.
        "Labels" labels: Option<BTreeMap<String, String>>,
    }

    /// Address management of a network.
    pub struct Ipam {
        /// Driver.
        "Driver" driver: String,
        /// Options of the driver.
        "Options" options: Option<BTreeMap<String, String>>,
        /// Subnets; null when there are none.
        "Config" config: Option<Vec<IpamConfig>>,
    }

    /// A subnet.
    pub struct IpamConfig {
        /// CIDR.
        omitempty "Subnet" subnet: String,
        /// CIDR from which addresses are given.
        omitempty "IPRange" ip_range: String,
        /// Gateway.
        omitempty "Gateway" gateway: String,
        /// Addresses that are taken.
        omitempty "AuxiliaryAddresses" auxiliary_addresses: BTreeMap<String, String>,
    }

    /// A network that gives its configuration.
    pub struct ConfigReference {
        /// Name.
        "Network" network: String,
    }

    /// A container in a network.
    pub struct NetworkContainer {
        /// Name.
        "Name" name: String,
        /// Identity of its place.
        "EndpointID" endpoint_id: String,
        /// Hardware address.
        "MacAddress" mac_address: String,
        /// CIDR.
        "IPv4Address" ipv4_address: String,
        /// CIDR.
        "IPv6Address" ipv6_address: String,
    }
}
