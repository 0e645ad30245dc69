//! What the compiler said of the kernels, and whether the list and the files agree.

mod twins;

use super::latent_attention::{latent_pages_bytes, latent_tile_bytes};
use super::list::{self, Types};
use super::*;

#[test]
fn kernels_are_there_where_they_must_be() {
    let required = std::env::var("BINFER_REQUIRE_KERNELS").is_ok_and(|value| value == "1");
    assert!(!required || !MODULES.is_empty(), "no nvcc: run `make cuda-toolchain`");
}

#[test]
fn nothing_spills_and_nobody_warns() {
    for module in MODULES {
        let (file, target) = (module.file, module.target);
        assert!(module.warnings.is_empty(), "{file} for {target:?}: {:?}", module.warnings);
        for entry in module.entries {
            assert_eq!(entry.spill_bytes, 0, "{} for {target:?} spills", entry.name);
        }
    }
}

#[test]
fn the_list_names_every_kernel_once() {
    if MODULES.is_empty() {
        return;
    }
    for target in Target::ALL {
        let mut listed = Vec::new();
        for kernel in list::ALL {
            let Some(module) = modules(target).find(|module| module.file == kernel.file) else {
                continue; // a file for other targets
            };
            for name in kernel.names() {
                let known = module.entries.iter().any(|entry| entry.name == name);
                assert!(known, "{}.cu has no kernel {name} for {target:?}", kernel.file);
                listed.push(name);
            }
        }
        let entries: usize = modules(target).map(|module| module.entries.len()).sum();
        assert_eq!(entries, listed.len(), "kernels for {target:?} that nobody launches");
    }
    assert!(list::ALL.iter().any(|kernel| kernel.types == Types::None));
}

#[test]
fn a_device_gets_the_best_that_it_can_run() {
    assert_eq!(Target::of_capability(9, 0), Some(Target::Sm90a));
    assert_eq!(Target::of_capability(8, 0), Some(Target::Sm80));
    assert_eq!(Target::of_capability(8, 9), Some(Target::Compute80));
    assert_eq!(Target::of_capability(12, 0), Some(Target::Compute80));
    assert_eq!(Target::of_capability(7, 5), None);
}

#[test]
fn the_best_image_runs_and_machine_code_of_another_device_does_not() {
    for capability in [(8, 0), (8, 6), (9, 0), (10, 0), (12, 1)] {
        let best = Target::of_capability(capability.0, capability.1).unwrap();
        assert!(best.runs_on(capability) && Target::Compute80.runs_on(capability));
        assert_eq!(Target::Sm90a.runs_on(capability), capability == (9, 0));
        assert_eq!(Target::Sm80.runs_on(capability), capability.0 == 8);
    }
    assert!(!Target::Compute80.runs_on((7, 5)));
}

#[test]
fn kernels_of_the_portable_image_ask_for_what_every_device_has() {
    let most = Target::Compute80.shared_bytes_max();
    assert_eq!(most, 101_376);
    let large = list::ALL.iter().filter(|kernel| kernel.shared_bytes > most);
    for kernel in large.filter(|kernel| modules(Target::Compute80).any(|m| m.file == kernel.file)) {
        // Whoever launches these looks at what a launch needs; usual shapes fit.
        let is_looked_at = ["decode_attention", "latent_decode", "latent_prefill"]
            .iter()
            .any(|known| kernel.name.starts_with(known));
        assert!(is_looked_at, "{} asks for too much", kernel.name);
    }
    let latent = latent_tile_bytes(1, 1) + latent_pages_bytes(1024);
    assert!(latent <= most, "latent attention: {latent}");
    for (head_dim, group, rows, fits) in
        [(64, 16, 1024, true), (128, 8, 1024, true), (128, 16, 1, false)]
    {
        let bytes = list::decode_attention_bytes(head_dim, group, rows);
        assert_eq!(bytes <= most, fits, "{head_dim}, {group}, {rows}: {bytes}");
    }
}

#[test]
fn skinny_gemms_are_listed_as_configs_count_them() {
    for (kernel, known) in list::SKINNY_GEMM.iter().zip(skinny_gemm::SKINNY_GEMM_KERNELS) {
        let info = &list::ALL[kernel.index];
        let name = format!("skinny_gemm_sm90_{}", known.variant);
        assert_eq!((info.name, info.threads), (name.as_str(), known.threads));
    }
    for (kernel, known) in list::LM_HEAD_GEMM.iter().zip(skinny_gemm::SKINNY_GEMM_KERNELS) {
        let name = kernel.map(|kernel| list::ALL[kernel.index].name.to_owned());
        let head = || format!("lm_head_gemm_{}", known.variant);
        assert_eq!(name, known.has_lm_head.then(head));
    }
}

#[test]
fn fp8_gemms_are_listed_as_configs_count_them() {
    for (kernels, known) in fp8_gemm::FP8_GEMM_SM90.iter().zip(fp8_gemm::FP8_GEMM_KERNELS) {
        let [plain, glu] = kernels.map(|kernel| list::ALL[kernel.index].name);
        let (n, w) = (known.tile_tokens, known.warpgroups);
        assert_eq!(plain, format!("moe_gemm_sm90_n{n}w{w}_fp8"));
        assert_eq!(glu, format!("{plain}_glu"));
    }
}

#[test]
fn stream_k_gemms_are_listed_as_configs_count_them() {
    for (kernel, known) in list::STREAM_K_GEMM.iter().zip(stream_k_gemm::STREAM_K_KERNELS) {
        let info = &list::ALL[kernel.index];
        assert_eq!(info.name, format!("stream_k_gemm_{}", known.variant));
    }
}
