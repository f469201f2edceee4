//! Settings and results of packing.

/// The format of packed images.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Resized images are JPEGs with full-resolution chroma (4:4:4). Small images keep their files.
    Jpeg,
    /// All images are binary PPM, whose pixels need no decoding.
    Raw,
}

/// Settings of packing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct PackOptions {
    /// Length of the shorter side in pixels; larger images are resized to it.
    pub size: u32,
    /// Format of the images.
    pub format: Format,
    /// JPEG quality, 1 to 100.
    pub quality: u8,
    /// A shard is finished when it reaches this size in bytes.
    pub shard_bytes: u64,
}

/// How packing ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All images are packed.
    Finished,
    /// All images were packed before; nothing was changed.
    AlreadyFinished,
    /// Packing was interrupted; the same call continues after the last finished shard.
    Interrupted,
}

/// The contents of the output folder, including results of earlier calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackReport {
    /// How packing ended.
    pub outcome: Outcome,
    /// Number of images in finished shards.
    pub images: usize,
    /// Number of these images that were resized.
    pub shrunk: usize,
    /// Names of images that cannot be read and are left out, with the reasons.
    pub broken: Vec<(String, String)>,
    /// Number of finished shards.
    pub shards: usize,
    /// Size of the finished shards in bytes.
    pub bytes: u64,
    /// Number of images of the dataset that earlier calls had processed, including broken ones.
    pub resumed: usize,
}
