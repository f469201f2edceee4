//! The machine of a run, for `environment.json`.

/// Describes program version, system, processor and threads as JSON.
pub(super) fn environment() -> String {
    let environment = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "cpu_features": cpu_features(),
        "threads": mimco_engine::cpu::threads::threads(),
    });
    format!("{environment:#}\n")
}

fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
        ];
        all.into_iter().filter(|(_, detected)| *detected).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}
