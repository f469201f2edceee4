//! `mimco inspect FILE` and `mimco convert IN OUT --to timm|hf|onnx|native`

use crate::args::{Convert, Inspect};
use crate::{output, status::Status};
use mimco::interop::convert::{self, Request};
use mimco::models::overrides::BackboneOverrides;

/// Prints what a checkpoint contains.
pub fn inspect(args: Inspect) -> anyhow::Result<Status> {
    let inspection = mimco::interop::inspect::inspect(&args.file, &BackboneOverrides::from_settings(&args.settings)?)?;
    if args.json {
        output::json(&inspection)?;
    } else {
        output::line(&inspection.to_text())?;
    }
    Ok(Status::Complete)
}

/// Writes a checkpoint in another format.
pub fn convert(args: Convert) -> anyhow::Result<Status> {
    let overrides = BackboneOverrides::from_settings(&args.settings)?;
    let batch = args.batch.map(|batch| batch as usize);
    let request =
        Request { input: &args.input, output: &args.output, target: args.to, overrides: &overrides, batch, overwrite: args.overwrite };
    let (info, files) = convert::convert(&request)?;
    if args.json {
        output::json(&serde_json::json!({ "architecture": info.architecture, "method": info.method, "info": info, "files": files }))?;
    } else {
        output::line(&format!("{} of {}, read back and compared", info.architecture, info.method))?;
        for file in files {
            output::line(&format!("wrote     {}", file.display()))?;
        }
    }
    Ok(Status::Complete)
}
