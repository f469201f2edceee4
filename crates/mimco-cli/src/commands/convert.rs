//! `mimco inspect FILE` and `mimco convert IN OUT --to timm|hf|onnx|native`

use crate::args::{Convert, Inspect};
use crate::{Done, output};
use mimco::interop::convert::{self, Request};
use mimco::models::overrides::BackboneOverrides;

pub fn inspect(args: Inspect) -> anyhow::Result<Done> {
    let inspection = mimco::interop::inspect::inspect(&args.file, &BackboneOverrides::from_settings(&args.settings)?)?;
    if args.json {
        output::json(&inspection)?;
    } else {
        output::line(&inspection.to_text())?;
    }
    Ok(Done::Complete)
}

pub fn convert(args: Convert) -> anyhow::Result<Done> {
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
    Ok(Done::Complete)
}
