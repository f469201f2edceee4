//! Model card of an export: the model, its origin and how to load it.

use crate::interop::info::Info;
use std::fmt::Write;

/// Returns the model card of the weights `file` in Markdown. The block between the `---` lines is
/// for model hubs. Exports are reproducible to the byte, so the wording of the card is part of
/// them.
pub fn text(file: &str, info: &Info) -> String {
    let model = &info.model;
    let mut card = String::from("---\ntags:\n- image-feature-extraction\n- vision-transformer\n");
    if let Some(license) = &info.license {
        let _ = writeln!(card, "license: {}", license.to_lowercase());
    }
    let _ = write!(card, "---\n\n# {}\n\n", info.architecture);
    let mut rows = vec![
        ("method", info.method.clone()),
        ("width, depth, heads, MLP", format!("{}, {}, {}, {}", model.width, model.depth, model.heads, model.mlp)),
        ("patch, image", format!("{} px, {} px", model.patch, model.image)),
        ("registers", model.registers.to_string()),
        ("LayerScale", if model.layer_scale == 0.0 { "no" } else { "yes" }.into()),
        ("norms' epsilon", format!("{:e}", model.norm_eps)),
        ("channel mean, std", format!("{:?}, {:?}", model.mean, model.std)),
        ("trained feature", info.pooling.name().to_string()),
    ];
    rows.extend(info.seed.map(|seed| ("seed", seed.to_string())));
    rows.extend(info.steps.map(|steps| ("updates", steps.to_string())));
    rows.extend(info.teacher.clone().map(|teacher| ("teacher", teacher)));
    rows.extend(info.data.clone().map(|digest| ("digest of the images", digest)));
    let license = info.license.as_ref().map(|license| {
        format!(
            "{license} is the license of the code that trained {}; the weights may have another",
            if info.teacher.is_some() { "the teacher" } else { "the model" }
        )
    });
    rows.push(("license", license.unwrap_or_else(|| "to be filled in by the owner of the weights and the images".into())));
    card.push_str("| | |\n|---|---|\n");
    for (property, value) in rows {
        let _ = writeln!(card, "| {property} | {value} |");
    }
    let _ = write!(
        card,
        "\nThe input is square RGB images with values in 0..1, normalized with the mean and std above. The output is a class token, registers \
         (if any) and patch tokens, after a final layer norm.\n\n```sh\nmimco embed --backbone {file} --data IMAGES --out features.npy\n\
         mimco convert {file} OUT --to timm   # or hf, onnx\n```\n"
    );
    if let Some(recipe) = &info.recipe {
        let _ = write!(card, "\n## Settings of the run\n\n```\n{}\n```\n", recipe.trim_end());
    }
    card
}
