//! The files of the tokenizer, zipped, in pieces.

use super::zip;
use crate::front::Core;
use crate::grpc::status;
use binfer_proto::client::smg::grpc::common::GetTokenizerChunk;
use ring::digest::{SHA256, digest};
use tokio::sync::OnceCell;
use tonic::Status;

/// Bytes of a piece.
const PIECE_BYTES: usize = 1 << 20;

/// The zip, once somebody has asked for it.
#[derive(Debug, Default)]
pub(super) struct TokenizerZip(OnceCell<Zip>);

#[derive(Debug)]
struct Zip {
    bytes: Vec<u8>,
    sha256: String,
}

impl TokenizerZip {
    /// The pieces.
    ///
    /// # Errors
    /// Why the files cannot be had now.
    pub(super) async fn chunks(
        &self,
        core: &Core,
    ) -> Result<Vec<Result<GetTokenizerChunk, Status>>, Status> {
        let zip = self.0.get_or_try_init(|| made(core)).await?;
        let pieces = zip.bytes.chunks(PIECE_BYTES);
        let last = pieces.len() - 1;
        let chunk = |(index, data): (usize, &[u8])| {
            let sha256 = if index == last { zip.sha256.clone() } else { String::new() };
            Ok(GetTokenizerChunk { data: data.to_vec(), sha256 })
        };
        Ok(pieces.enumerate().map(chunk).collect())
    }
}

async fn made(core: &Core) -> Result<Zip, Status> {
    let refused = |error| status::of_submit(&error, |_| "the tokenizer");
    let files = core.tokenizer_files().await.map_err(refused)?;
    let zipped = core.on_pool(move || {
        let bytes = zip::stored(&[
            ("tokenizer.json", files.tokenizer.as_bytes()),
            ("tokenizer_config.json", files.config.as_bytes()),
        ])?;
        let sha256 = digest(&SHA256, &bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        Some(Zip { bytes, sha256 })
    });
    let too_large = || Status::internal("the tokenizer is too large for a zip");
    zipped.await.map_err(refused)?.ok_or_else(too_large)
}
