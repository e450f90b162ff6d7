// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frame sizes, and copying frames into and out of the graphs' buffers.

use crate::{Error, Result};

/// Least and greatest width and height of a frame, in pixels.
pub const SIZE_RANGE: std::ops::RangeInclusive<u32> = 16..=8192;

/// How a bundle's graphs hold a frame in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum PixelFormat {
    /// Planes Y, U, V one after the other, 4:2:0.
    I420,
    /// Interleaved R, G, B.
    #[serde(rename = "RGB")]
    Rgb,
}

/// How a caller holds a frame in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceFormat {
    /// Three planes.
    I420,
    /// Y plane and interleaved U, V plane.
    Nv12,
    /// One plane of interleaved R, G, B.
    Rgb,
}

/// Sizes of a picture and of its grid of cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Picture width in pixels.
    pub width: usize,
    /// Picture height in pixels.
    pub height: usize,
    /// Width as the graphs see it.
    pub aligned_width: usize,
    /// Height as the graphs see it.
    pub aligned_height: usize,
    /// Cells in a row.
    pub cells_x: usize,
    /// Rows of cells.
    pub cells_y: usize,
    /// Layout of a frame in the graphs.
    pub format: PixelFormat,
}

impl Geometry {
    /// Geometry of a `width` x `height` picture under `alignment` and `cell`, both [width, height] in pixels.
    pub fn new(width: u32, height: u32, format: PixelFormat, alignment: [u32; 2], cell: [u32; 2]) -> Result<Self> {
        if !SIZE_RANGE.contains(&width) || !SIZE_RANGE.contains(&height) {
            return Err(Error::Limit(format!(
                "{width}x{height} is outside 16x16 to 8192x8192; scale the video first (videoscale)"
            )));
        }
        let aligned_width = width.next_multiple_of(alignment[0]);
        let aligned_height = height.next_multiple_of(alignment[1]);
        Ok(Self {
            width: width as usize,
            height: height as usize,
            aligned_width: aligned_width as usize,
            aligned_height: aligned_height as usize,
            cells_x: (aligned_width / cell[0]) as usize,
            cells_y: (aligned_height / cell[1]) as usize,
            format,
        })
    }

    /// Cells of a picture.
    pub fn cells(&self) -> usize {
        self.cells_x * self.cells_y
    }

    /// Bytes of one aligned frame.
    pub fn frame_bytes(&self) -> usize {
        let pixels = self.aligned_width * self.aligned_height;
        match self.format {
            PixelFormat::I420 => pixels * 3 / 2,
            PixelFormat::Rgb => pixels * 3,
        }
    }

    /// Planes of an aligned frame: (offset, aligned width in bytes, aligned height, width in bytes, height).
    fn planes(&self) -> ([Plane; 3], usize) {
        let (w, h, aw, ah) = (self.width, self.height, self.aligned_width, self.aligned_height);
        match self.format {
            PixelFormat::I420 => {
                let chroma =
                    |offset| Plane { offset, pitch: aw / 2, rows: ah / 2, width: w.div_ceil(2), height: h.div_ceil(2), unit: 1 };
                let luma = Plane { offset: 0, pitch: aw, rows: ah, width: w, height: h, unit: 1 };
                ([luma, chroma(aw * ah), chroma(aw * ah + aw * ah / 4)], 3)
            }
            PixelFormat::Rgb => {
                let rgb = Plane { offset: 0, pitch: aw * 3, rows: ah, width: w * 3, height: h, unit: 3 };
                ([rgb, rgb, rgb], 1)
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Plane {
    offset: usize,
    pitch: usize,
    rows: usize,
    width: usize,
    height: usize,
    unit: usize,
}

/// A picture to read, as the caller holds it. Unused planes are empty.
#[derive(Debug, Clone, Copy)]
pub struct PlanesRef<'a> {
    /// Layout of `planes`.
    pub format: SourceFormat,
    /// Bytes of each plane.
    pub planes: [&'a [u8]; 3],
    /// Bytes from one row to the next.
    pub strides: [usize; 3],
}

/// A picture to write, in the bundle's pixel format. Unused planes are empty.
#[derive(Debug)]
pub struct PlanesMut<'a> {
    /// Bytes of each plane.
    pub planes: [&'a mut [u8]; 3],
    /// Bytes from one row to the next.
    pub strides: [usize; 3],
}

fn short(plane: usize) -> Error {
    Error::Settings(format!("plane {plane} of the picture is smaller than its size and stride say"))
}

/// Repeats the last pixel of a row to its end, and the last row to the plane's end.
fn pad(dst: &mut [u8], p: &Plane) {
    for row in dst.chunks_exact_mut(p.pitch).take(p.height) {
        let (picture, edge) = row.split_at_mut(p.width);
        let last = &picture[p.width - p.unit..];
        for pixel in edge.chunks_exact_mut(p.unit) {
            pixel.copy_from_slice(last);
        }
    }
    let (rows, rest) = dst.split_at_mut(p.height * p.pitch);
    let last = &rows[(p.height - 1) * p.pitch..];
    for row in rest.chunks_exact_mut(p.pitch) {
        row.copy_from_slice(last);
    }
}

/// Copies one picture into `dst` ([`Geometry::frame_bytes`] long), repeating its edges up to the aligned size. NV12 is
/// deinterleaved on the way.
pub(crate) fn load_frame(geometry: &Geometry, source: &PlanesRef<'_>, dst: &mut [u8]) -> Result<()> {
    let fits = matches!(
        (geometry.format, source.format),
        (PixelFormat::I420, SourceFormat::I420 | SourceFormat::Nv12) | (PixelFormat::Rgb, SourceFormat::Rgb)
    );
    if !fits {
        return Err(Error::Settings(format!(
            "the model takes {:?}, not {:?}; convert the video first (videoconvert)",
            geometry.format, source.format
        )));
    }
    let (planes, n) = geometry.planes();
    for (i, p) in planes.iter().enumerate().take(n) {
        let dst = &mut dst[p.offset..p.offset + p.pitch * p.rows];
        let interleaved = i > 0 && source.format == SourceFormat::Nv12;
        let from = if interleaved { 1 } else { i };
        let (src, stride, row_bytes) =
            (source.planes[from], source.strides[from], if interleaved { 2 * p.width } else { p.width });
        for (y, row) in dst.chunks_exact_mut(p.pitch).take(p.height).enumerate() {
            let line = src.get(y * stride..y * stride + row_bytes).ok_or_else(|| short(from))?;
            if interleaved {
                for (d, uv) in row.iter_mut().zip(line.chunks_exact(2)) {
                    *d = uv[i - 1];
                }
            } else {
                row[..p.width].copy_from_slice(line);
            }
        }
        pad(dst, p);
    }
    Ok(())
}

/// Copies the visible part of the aligned frame `src` into `target`.
pub(crate) fn store_frame(geometry: &Geometry, src: &[u8], target: &mut PlanesMut<'_>) -> Result<()> {
    let (planes, n) = geometry.planes();
    for (i, p) in planes.iter().enumerate().take(n) {
        let stride = target.strides[i];
        for (y, row) in src[p.offset..].chunks_exact(p.pitch).take(p.height).enumerate() {
            let line = target.planes[i].get_mut(y * stride..y * stride + p.width).ok_or_else(|| short(i))?;
            line.copy_from_slice(&row[..p.width]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn i420(w: u32, h: u32) -> Geometry {
        Geometry::new(w, h, PixelFormat::I420, [16, 16], [16, 16]).expect("valid size")
    }

    #[test]
    fn odd_sizes_survive_and_edges_repeat() {
        for (w, h) in [(17, 19), (16, 16), (33, 16), (31, 47)] {
            let g = i420(w, h);
            let (cw, ch) = (w.div_ceil(2) as usize, h.div_ceil(2) as usize);
            let (w, h) = (w as usize, h as usize);
            let stride = w + 5;
            let y: Vec<u8> = (0..stride * h).map(|i| (i * 7) as u8).collect();
            let u: Vec<u8> = (0..cw * ch).map(|i| (i * 3) as u8).collect();
            let v: Vec<u8> = (0..cw * ch).map(|i| (i * 5 + 1) as u8).collect();
            let mut frame = vec![0; g.frame_bytes()];
            load_frame(
                &g,
                &PlanesRef { format: SourceFormat::I420, planes: [&y, &u, &v], strides: [stride, cw, cw] },
                &mut frame,
            )
            .expect("loads");
            assert_eq!(frame[g.aligned_width - 1], y[w - 1]);
            assert_eq!(frame[(g.aligned_height - 1) * g.aligned_width], y[(h - 1) * stride]);
            let uv: Vec<u8> = u.iter().zip(&v).flat_map(|(a, b)| [*a, *b]).collect();
            let mut again = vec![1; g.frame_bytes()];
            load_frame(
                &g,
                &PlanesRef { format: SourceFormat::Nv12, planes: [&y, &uv, &[]], strides: [stride, 2 * cw, 0] },
                &mut again,
            )
            .expect("loads");
            assert_eq!(frame, again);
            let (mut oy, mut ou, mut ov) = (vec![0; stride * h], vec![0; cw * ch], vec![0; cw * ch]);
            store_frame(&g, &frame, &mut PlanesMut { planes: [&mut oy, &mut ou, &mut ov], strides: [stride, cw, cw] })
                .expect("stores");
            assert_eq!((ou, ov), (u, v));
            for (a, b) in oy.chunks(stride).zip(y.chunks(stride)) {
                assert_eq!(a[..w], b[..w]);
            }
        }
    }

    #[test]
    fn impossible_pictures_are_refused() {
        assert!(matches!(Geometry::new(8, 16, PixelFormat::I420, [16, 16], [16, 16]), Err(Error::Limit(_))));
        assert!(matches!(Geometry::new(9000, 16, PixelFormat::I420, [16, 16], [16, 16]), Err(Error::Limit(_))));
        let g = i420(32, 32);
        let mut frame = vec![0; g.frame_bytes()];
        let small = [0u8; 100];
        let planes = PlanesRef { format: SourceFormat::I420, planes: [&small, &small, &small], strides: [32, 16, 16] };
        assert!(matches!(load_frame(&g, &planes, &mut frame), Err(Error::Settings(_))));
        let planes = PlanesRef { format: SourceFormat::Rgb, ..planes };
        assert!(matches!(load_frame(&g, &planes, &mut frame), Err(Error::Settings(_))));
    }
}
