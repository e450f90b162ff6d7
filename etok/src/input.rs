// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be an input: files, URLs, standard input, cameras and a test picture.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::failure::input;

/// What the user names as input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    File(PathBuf),
    Url(String),
    Stdin,
    /// The first camera, or that of a device path.
    Camera(Option<String>),
    /// videotestsrc, with one of its patterns.
    Test(Option<String>),
}

impl FromStr for Input {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once(':') {
            _ if text == "-" => Self::Stdin,
            None if text == "camera" => Self::Camera(None),
            None if text == "test" => Self::Test(None),
            Some(("camera", device)) => Self::Camera(Some(device.into())),
            Some(("test", pattern)) => Self::Test(Some(pattern.into())),
            Some((scheme, rest))
                if rest.starts_with("//") && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) =>
            {
                Self::Url(text.into())
            }
            _ => Self::File(text.into()),
        })
    }
}

impl Input {
    /// As messages name it.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url(url) => url.clone(),
            Self::Stdin => "standard input".into(),
            Self::Camera(None) => "camera".into(),
            Self::Camera(Some(device)) => format!("camera:{device}"),
            Self::Test(None) => "test".into(),
            Self::Test(Some(pattern)) => format!("test:{pattern}"),
        }
    }

    /// The file's path, where it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            _ => None,
        }
    }

    /// Frames come when they come.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Camera(_))
    }
}

/// Refuses files that are not there, are folders, are empty or cannot be read.
pub fn check_file(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let data = std::fs::metadata(path).map_err(|e| input(format!("cannot read {shown}: {e}")))?;
    if data.is_dir() {
        return Err(input(format!("{shown} is a folder; name a file in it")));
    }
    if data.is_file() && data.len() == 0 {
        return Err(input(format!("{shown} is empty")));
    }
    std::fs::File::open(path).map(|_| ()).map_err(|e| input(format!("cannot read {shown}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Input {
        text.parse().unwrap_or(Input::Stdin)
    }

    #[test]
    fn inputs_are_told_apart() {
        assert_eq!(parse("-"), Input::Stdin);
        assert_eq!(parse("camera"), Input::Camera(None));
        assert_eq!(parse("camera:/dev/video2"), Input::Camera(Some("/dev/video2".into())));
        assert_eq!(parse("test:ball"), Input::Test(Some("ball".into())));
        assert_eq!(parse("https://x.org/a.mp4"), Input::Url("https://x.org/a.mp4".into()));
        for file in ["a.mp4", "./camera", "odd:name.mp4", "a b://c"] {
            assert_eq!(parse(file), Input::File(file.into()), "{file}");
        }
    }
}
