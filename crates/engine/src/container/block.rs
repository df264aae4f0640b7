//! Limits of block devices.

use std::path::Path;

use sampan_oci::runtime::{BlockIoResources, ThrottleDevice, WeightDevice};

use super::config::{DeviceRate, Resources};
use crate::host::{DeviceNode, device_at};
use crate::{Error, Result};

/// Looks the devices up and returns their limits; none where there are none. Blocks.
pub(crate) fn limits(from: &Resources) -> Result<Option<BlockIoResources>> {
    let rates = |list: &[DeviceRate]| -> Result<Vec<ThrottleDevice>> {
        let rates = list.iter().map(|limit| {
            let node = node(&limit.path)?;
            Ok(ThrottleDevice {
                major: node.major.into(),
                minor: node.minor.into(),
                rate: limit.rate,
            })
        });
        rates.collect()
    };
    let weights = from.blkio_weight_device.iter().map(|weight| {
        let node = node(&weight.path)?;
        Ok(WeightDevice {
            major: node.major.into(),
            minor: node.minor.into(),
            weight: u16::try_from(weight.rate).ok(),
            leaf_weight: None,
        })
    });
    let limits = BlockIoResources {
        weight: (from.blkio_weight > 0).then_some(from.blkio_weight),
        leaf_weight: None,
        weight_device: weights.collect::<Result<_>>()?,
        throttle_read_bps_device: rates(&from.blkio_read_bps)?,
        throttle_write_bps_device: rates(&from.blkio_write_bps)?,
        throttle_read_iops_device: rates(&from.blkio_read_iops)?,
        throttle_write_iops_device: rates(&from.blkio_write_iops)?,
    };
    Ok((limits != BlockIoResources::default()).then_some(limits))
}

fn node(path: &str) -> Result<DeviceNode> {
    let found = device_at(Path::new(path))
        .map_err(|error| Error::invalid(format!("cannot limit the device {path}: {error}")))?;
    found
        .filter(|node| node.kind == "b")
        .ok_or_else(|| Error::invalid(format!("cannot limit {path}: it is not a block device")))
}
