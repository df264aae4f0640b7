//! Limits of block devices, huge pages, network packets and RDMA.

use std::collections::BTreeMap;

use sampan_oci::runtime::{
    BlockIoResources, HugepageLimit, NetworkResources, RdmaLimit, ThrottleDevice, WeightDevice,
};

use super::{Setting, Version};
use crate::{Controller, Error};

/// Weights are those of the BFQ scheduler where it is there, else the kernel's own.
pub(super) fn block_io(limits: &BlockIoResources, version: Version, out: &mut Vec<Setting>) {
    let io = |file: &str, value: String| Setting::new(Controller::Io, file, value);
    let weight = limits.weight.filter(|weight| *weight > 0);
    let leaf_weight = limits.leaf_weight.filter(|weight| *weight > 0);
    match version {
        Version::V1 => {
            if let Some(weight) = weight {
                let setting = io("blkio.bfq.weight", weight.to_string());
                out.push(setting.or("blkio.weight", weight));
            }
            if let Some(weight) = leaf_weight {
                out.push(io("blkio.leaf_weight", weight.to_string()));
            }
            for device in &limits.weight_device {
                let WeightDevice { major, minor, .. } = device;
                if let Some(weight) = device.weight {
                    let value = format!("{major}:{minor} {weight}");
                    let setting = io("blkio.bfq.weight_device", value.clone());
                    out.push(setting.or("blkio.weight_device", value));
                }
                if let Some(weight) = device.leaf_weight {
                    let value = format!("{major}:{minor} {weight}");
                    out.push(io("blkio.leaf_weight_device", value));
                }
            }
        }
        Version::V2 => {
            if let Some(weight) = weight {
                let setting = io("io.bfq.weight", weight.to_string());
                out.push(setting.or("io.weight", own_weight(weight)));
            }
            for device in &limits.weight_device {
                let WeightDevice { major, minor, .. } = device;
                if let Some(weight) = device.weight {
                    let setting = io("io.bfq.weight", format!("{major}:{minor} {weight}"));
                    let own = format!("{major}:{minor} {}", own_weight(weight));
                    out.push(setting.or("io.weight", own));
                }
            }
        }
    }
    let throttles = [
        (&limits.throttle_read_bps_device, "read_bps", "rbps"),
        (&limits.throttle_write_bps_device, "write_bps", "wbps"),
        (&limits.throttle_read_iops_device, "read_iops", "riops"),
        (&limits.throttle_write_iops_device, "write_iops", "wiops"),
    ];
    for (devices, v1, v2) in throttles {
        for ThrottleDevice { major, minor, rate } in devices {
            out.push(match version {
                Version::V1 => io(
                    &format!("blkio.throttle.{v1}_device"),
                    format!("{major}:{minor} {rate}"),
                ),
                Version::V2 => {
                    // v1 lifts a limit by 0.
                    let rate = match rate {
                        0 => "max".to_owned(),
                        rate => rate.to_string(),
                    };
                    io("io.max", format!("{major}:{minor} {v2}={rate}"))
                }
            });
        }
    }
}

/// The kernel's own weight (1 to 10000) for one of the specification (10 to 1000).
fn own_weight(weight: u16) -> u32 {
    1 + (u32::from(weight.clamp(10, 1000)) - 10) * 9_999 / 990
}

pub(super) fn huge_pages(
    limits: &[HugepageLimit],
    version: Version,
    out: &mut Vec<Setting>,
) -> Result<(), Error> {
    for HugepageLimit { page_size, limit } in limits {
        if page_size.is_empty() || !page_size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::InvalidLimit(format!(
                "{page_size:?} is no size of huge pages"
            )));
        }
        let file = match version {
            Version::V1 => "limit_in_bytes",
            Version::V2 => "max",
        };
        for reserved in ["", "rsvd."] {
            let setting = Setting::new(
                Controller::HugePages,
                &format!("hugetlb.{page_size}.{reserved}{file}"),
                limit,
            );
            // Reservations are counted since Linux 5.7.
            out.push(if reserved.is_empty() {
                setting
            } else {
                setting.optional()
            });
        }
    }
    Ok(())
}

pub(super) fn rdma(limits: &BTreeMap<String, RdmaLimit>, out: &mut Vec<Setting>) {
    for (device, limit) in limits {
        let mut value = device.clone();
        for (name, limit) in [
            ("hca_handle", limit.hca_handles),
            ("hca_object", limit.hca_objects),
        ] {
            if let Some(limit) = limit {
                value.push_str(&format!(" {name}={limit}"));
            }
        }
        out.push(Setting::new(Controller::Rdma, "rdma.max", value));
    }
}

pub(super) fn network(
    network: &NetworkResources,
    version: Version,
    out: &mut Vec<Setting>,
) -> Result<(), Error> {
    let class = network.class_id.filter(|class| *class != 0);
    if version == Version::V2 && (class.is_some() || !network.priorities.is_empty()) {
        return Err(Error::InvalidLimit(
            "network classes and priorities are for cgroup v1 only".into(),
        ));
    }
    if let Some(class) = class {
        let setting = Setting::new(Controller::NetworkClass, "net_cls.classid", class);
        out.push(setting);
    }
    for priority in &network.priorities {
        out.push(Setting::new(
            Controller::NetworkPriority,
            "net_prio.ifpriomap",
            format!("{} {}", priority.name, priority.priority),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(settings: Vec<Setting>) -> Vec<String> {
        let lines = settings.into_iter().map(|setting| {
            let otherwise = setting
                .otherwise
                .map(|(file, value)| format!("|{file}={value}"));
            format!(
                "{}={}{}",
                setting.file,
                setting.value,
                otherwise.unwrap_or_default()
            )
        });
        lines.collect()
    }

    #[test]
    fn block_devices_are_limited_in_both_versions_words() {
        let limits = BlockIoResources {
            weight: Some(500),
            throttle_read_bps_device: vec![ThrottleDevice {
                major: 8,
                minor: 0,
                rate: 1000,
            }],
            ..BlockIoResources::default()
        };
        let of = |version| {
            let mut out = Vec::new();
            block_io(&limits, version, &mut out);
            written(out)
        };
        assert_eq!(
            of(Version::V1),
            [
                "blkio.bfq.weight=500|blkio.weight=500",
                "blkio.throttle.read_bps_device=8:0 1000"
            ]
        );
        assert_eq!(
            of(Version::V2),
            ["io.bfq.weight=500|io.weight=4950", "io.max=8:0 rbps=1000"]
        );
    }

    #[test]
    fn huge_pages_rdma_and_network() {
        let mut out = Vec::new();
        let limit = HugepageLimit {
            page_size: "2MB".into(),
            limit: 4 << 20,
        };
        huge_pages(&[limit], Version::V2, &mut out).unwrap();
        let devices = BTreeMap::from([(
            "mlx5_1".to_owned(),
            RdmaLimit {
                hca_handles: Some(3),
                hca_objects: None,
            },
        )]);
        rdma(&devices, &mut out);
        assert_eq!(
            written(out),
            [
                "hugetlb.2MB.max=4194304",
                "hugetlb.2MB.rsvd.max=4194304",
                "rdma.max=mlx5_1 hca_handle=3"
            ]
        );
        let class = NetworkResources {
            class_id: Some(1),
            ..NetworkResources::default()
        };
        assert!(network(&class, Version::V2, &mut Vec::new()).is_err());
        let bad = HugepageLimit {
            page_size: "../x".into(),
            limit: 1,
        };
        assert!(huge_pages(&[bad], Version::V1, &mut Vec::new()).is_err());
    }
}
