// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a model fits in memory: where it does not, the system ends the process instead of refusing the allocation.

use super::contract::{ContextSpec, element_bytes};
use crate::bundle::{Bottleneck, Manifest};
use crate::frame::Geometry;
use crate::{Error, Result};

/// Bytes for each pixel that decoding takes with a nested bundle, graph and coder. Measured at 3840x2160 with the builtin one.
pub(super) const DECODING: u64 = 220;
/// And encoding, both graphs.
pub(super) const ENCODING: u64 = 370;

/// Bytes of a context; `None`: its type is none of a context's, or it is beyond counting.
pub(super) fn bytes(context: &ContextSpec) -> Option<u64> {
    let size = element_bytes(context.ty)?;
    context.shape.iter().try_fold(size, |n, &d| n.checked_mul(d)).and_then(|n| u64::try_from(n).ok())
}

/// Host memory that can be had, in bytes, where the system tells (Linux).
fn available() -> Option<u64> {
    let read = |path| std::fs::read_to_string(path).ok();
    let info = read("/proc/meminfo")?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024);
    let limit = read("/sys/fs/cgroup/memory.max").and_then(|m| m.trim().parse().ok());
    Some(limit.map_or(free, |limit: u64| limit.min(free)))
}

/// Checks that contexts in host memory, two of each, leave the system some.
pub(super) fn check(contexts: &[ContextSpec]) -> Result<()> {
    available().map_or(Ok(()), |free| check_against(contexts, free))
}

/// Checks that pictures of such a size can be worked on in host memory, with so many bytes for each pixel: a few damaged bytes of a
/// header can ask for gigabytes.
pub(super) fn check_size(m: &Manifest, g: &Geometry, pixel: u64) -> Result<()> {
    available().map_or(Ok(()), |free| check_size_against(m, g, pixel, free))
}

fn check_size_against(m: &Manifest, g: &Geometry, pixel: u64, available: u64) -> Result<()> {
    let needed = match m.bottleneck {
        Bottleneck::Nested { .. } => pixel * g.aligned_width as u64 * g.aligned_height as u64,
        // contexts, which are checked by themselves, are most of it
        Bottleneck::Fsq { .. } | Bottleneck::Vae { .. } => 0,
    };
    if needed <= available {
        return Ok(());
    }
    Err(Error::Limit(format!(
        "the model takes some {:.1} GiB for pictures of {}x{}, and {:.1} GiB of memory are free; scale the video down (videoscale)",
        gib(needed),
        g.width,
        g.height,
        gib(available)
    )))
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn check_against(contexts: &[ContextSpec], available: u64) -> Result<()> {
    let needed = contexts.iter().map(|c| bytes(c).unwrap_or(u64::MAX)).fold(0, u64::saturating_add).saturating_mul(2);
    if needed <= available {
        return Ok(());
    }
    Err(Error::Limit(format!(
        "the model's contexts take {:.1} GiB for pictures of this size, and {:.1} GiB of memory are free; scale the video down (videoscale), or use a bundle in half precision or with a shorter context",
        gib(needed),
        gib(available)
    )))
}

#[cfg(test)]
mod tests {
    use ort::value::TensorElementType as Type;

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let context = |shape: &[i64]| ContextSpec { name: "enc.key".into(), ty: Type::Float32, shape: shape.to_vec() };
        let two = [context(&[40, 8, 16384, 128]), context(&[40, 8, 16384, 128])];
        assert_eq!(bytes(&two[0]), Some(4 * 40 * 8 * 16384 * 128));
        assert!(check_against(&two, 11 << 30).is_ok());
        let error = check_against(&two, 4 << 30).expect_err("10 GiB in 4").to_string();
        assert!(error.contains("10.0 GiB") && error.contains("4.0 GiB") && error.contains("videoscale"), "{error}");
        assert!(check_against(&[context(&[i64::MAX, 9])], u64::MAX - 1).is_err());
    }

    #[test]
    fn huge_pictures_are_refused_with_numbers() {
        let bundle = crate::bundle::Bundle::builtin().expect("valid");
        let check = |w, h, free| check_size_against(&bundle.manifest, &bundle.geometry(w, h).expect("size"), 200, free);
        assert!(check(1280, 720, 1 << 30).is_ok());
        let error = check(8192, 8192, 8 << 30).expect_err("12 GiB in 8").to_string();
        assert!(error.contains("12.5 GiB") && error.contains("8192x8192") && error.contains("8.0 GiB"), "{error}");
        assert!(check(8192, 8192, 16 << 30).is_ok());
    }
}
