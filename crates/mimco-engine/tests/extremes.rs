//! Values at the edge of what operators meet: sharp temperatures, huge scores, zero vectors, constant rows.

use mimco_engine::ops::{Candidates, Contrast, Layer, Norm};
use mimco_engine::{Parameters, Tape, Tensor, Var};
use std::sync::Arc;

/// Loss, share of wins and the queries' gradient.
fn info_nce(queries: &Tensor, contrast: &Contrast<'_>) -> (f32, f32, Vec<f32>) {
    let parameters = Parameters::new();
    let mut tape = Tape::recording(&parameters);
    let leaf = tape.leaf(queries.clone());
    let (loss, wins) = tape.info_nce(&leaf, contrast);
    let value = loss.value.item();
    let gradient = tape.backward(&loss, Tensor::scalar(1.0), &mut [], Some(&leaf));
    (value, wins, gradient.unwrap().data().to_vec())
}

/// With temperature 0.01 the logits of opposite keys are 200 apart, beyond what e^x holds in f32.
#[test]
fn sharp_info_nce_counts_the_whole_distance() {
    let queries = Tensor::from_slice([2, 2], &[3.0, 0.0, 0.0, 0.5]);
    let keys = Tensor::from_slice([1, 2, 2], &[1.0, 0.0, -1.0, 0.0]);
    let contrast = |targets| Contrast { keys: &keys, candidates: Candidates::Among(targets), owners: None, temperature: 0.01 };
    // Row 0: the positive is opposite (loss 200) or alike (0). Row 1: both keys are at right angles, ln 2, a tie.
    let (loss, wins, gradient) = info_nce(&queries, &contrast(&[1, 1]));
    assert!((loss - (200.0 + std::f32::consts::LN_2) / 2.0).abs() < 1e-4, "{loss}");
    assert_eq!(wins, 0.5);
    // dq̂ of row 1: (k₀/2 + k₁/2 - k₁) / (0.01 · 2) = (50, 0), over |q| = 0.5.
    assert!((gradient[2] - 100.0).abs() < 1e-3 && gradient[3].abs() < 1e-3, "{gradient:?}");
    let (loss, wins, _) = info_nce(&queries, &contrast(&[0, 0]));
    assert!((loss - std::f32::consts::LN_2 / 2.0).abs() < 1e-6, "{loss}");
    assert_eq!(wins, 1.0);
    // The same beside the keys, the positive being the key itself: another e^0 in row 0's sum, a third tie in row 1's.
    let positives = Tensor::from_slice([2, 2], &[1.0, 0.0, 1.0, 0.0]);
    let beside = Contrast { keys: &keys, candidates: Candidates::Beside(&positives), owners: None, temperature: 0.01 };
    let (loss, wins, _) = info_nce(&queries, &beside);
    assert!((loss - (2.0f32.ln() + 3.0f32.ln()) / 2.0).abs() < 1e-6, "{loss}");
    assert_eq!(wins, 1.0);
}

#[test]
fn info_nce_of_zero_and_huge_vectors_is_finite() {
    let queries = Tensor::from_slice([3, 2], &[0.0, 0.0, 1e18, 1e18, 1e-18, 0.0]);
    let keys = Tensor::from_slice([1, 3, 2], &[0.0, 0.0, 1e18, 0.0, 0.0, -1e-15]);
    let (loss, _, gradient) =
        info_nce(&queries, &Contrast { keys: &keys, candidates: Candidates::Among(&[0, 1, 2]), owners: None, temperature: 0.1 });
    assert!(loss.is_finite() && gradient.iter().all(|g| g.is_finite()), "{loss} {gradient:?}");
}

#[test]
fn info_nce_with_all_negatives_left_out_is_zero() {
    let queries = Tensor::from_slice([2, 2], &[1.0, 2.0, -1.0, 0.5]);
    let keys = Tensor::from_slice([1, 3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let owners: (&[u64], &[u64]) = (&[5, 5], &[5, 5, 5]);
    let positives = Tensor::from_slice([2, 2], &[1.0, 0.0, 0.0, 1.0]);
    for candidates in [Candidates::Among(&[0, 2]), Candidates::Beside(&positives)] {
        let (loss, wins, gradient) = info_nce(&queries, &Contrast { keys: &keys, candidates, owners: Some(owners), temperature: 0.2 });
        assert_eq!((loss, wins), (0.0, 1.0));
        assert!(gradient.iter().all(|g| g.abs() < 1e-6), "{gradient:?}");
    }
}

#[test]
fn info_nce_shows_keys_and_positives_that_are_not_finite() {
    let queries = Tensor::from_slice([2, 2], &[1.0, 2.0, -1.0, 0.5]);
    let positives = Tensor::from_slice([2, 2], &[1.0, 0.0, 0.0, 1.0]);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let bad_keys = Tensor::from_slice([1, 2, 2], &[1.0, 0.0, value, 1.0]);
        let bad_positives = Tensor::from_slice([2, 2], &[1.0, value, 0.0, 1.0]);
        let good_keys = Tensor::from_slice([1, 2, 2], &[1.0, 0.0, 0.0, 1.0]);
        for (keys, candidates) in [
            (&bad_keys, Candidates::Among(&[0, 0])),
            (&bad_keys, Candidates::Beside(&positives)),
            (&good_keys, Candidates::Beside(&bad_positives)),
        ] {
            let (loss, _, _) = info_nce(&queries, &Contrast { keys, candidates, owners: None, temperature: 0.2 });
            assert!(loss.is_nan(), "{value}: {loss}");
        }
    }
}

#[test]
#[should_panic(expected = "as many queries in each group")]
fn info_nce_refuses_queries_that_belong_to_no_group() {
    let keys = Tensor::zeros([2, 4, 3]);
    let contrast = Contrast { keys: &keys, candidates: Candidates::Among(&[0; 5]), owners: None, temperature: 0.2 };
    Tape::inference(&Parameters::new()).info_nce(&Var::constant(Tensor::zeros([5, 3])), &contrast);
}

#[test]
#[should_panic(expected = "offsets")]
fn attention_refuses_images_that_leave_rows_out() {
    let offsets: Arc<[usize]> = [1, 3].into();
    Tape::inference(&Parameters::new()).attention(&Var::constant(Tensor::zeros([3, 12])), &offsets, 2);
}

/// Scores of ±1e6: each token sees the one of the largest score alone.
#[test]
fn attention_of_huge_scores_is_the_best_token() {
    // One head of size 1; q = ±1000, k = (-1000, 1000, 0).
    let qkv = Tensor::from_slice([3, 3], &[1e3, -1e3, 1.0, -1e3, 1e3, 2.0, 1e3, 0.0, 3.0]);
    let offsets: Arc<[usize]> = [0, 3].into();
    let parameters = Parameters::new();
    let mut tape = Tape::recording(&parameters);
    let leaf = tape.leaf(qkv);
    let y = tape.attention(&leaf, &offsets, 1);
    assert_eq!(y.value.data(), [2.0, 1.0, 2.0]);
    let gradient = tape.backward(&y, Tensor::from_slice([3, 1], &[1.0, 10.0, 100.0]), &mut [], Some(&leaf)).unwrap();
    let expected = [0.0, 0.0, 10.0, 0.0, 0.0, 101.0, 0.0, 0.0, 0.0]; // v's alone
    assert!(gradient.data().iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-6), "{:?}", gradient.data());
}

/// Scores that are all -∞ have no softmax, which must show.
#[test]
fn attention_without_any_finite_score_is_nan() {
    let qkv = Tensor::from_slice([2, 3], &[1.0, f32::NEG_INFINITY, 1.0, 1.0, f32::NEG_INFINITY, 1.0]);
    let y = Tape::inference(&Parameters::new()).attention(&Var::constant(qkv), &[0, 2].into(), 1);
    assert!(y.value.data().iter().all(|y| y.is_nan()));
}

#[test]
fn normalisations_of_constant_values_are_their_bias() {
    let mut parameters = Parameters::new();
    let [weight, bias] = ["weight", "bias"].map(|name| parameters.add(name, &[35]));
    parameters.get_mut(weight).fill(3.0);
    parameters.get_mut(bias).fill(0.25);
    for value in [0.0, -7.0, 4096.0] {
        for rows in [1, 5] {
            let x = Tensor::from_slice([rows, 35], &vec![value; rows * 35]);
            for which in ["layer", "batch"] {
                let mut tape = Tape::recording(&parameters);
                let leaf = tape.leaf(x.clone());
                let y = match which {
                    "layer" => tape.layer_norm(&leaf, Norm { weight, bias, eps: 1e-6 }),
                    _ => tape.batch_norm(&leaf, Some((weight, bias)), false, &mut mimco_engine::ops::RunningStatistics::new(35)),
                };
                assert!(y.value.data().iter().all(|y| *y == 0.25), "{which} {value}");
                let mut gradients = parameters.zeros_like();
                let seed = Tensor::from_slice([rows, 35], &(0..rows * 35).map(|i| i as f32 - 9.0).collect::<Vec<_>>());
                let dx = tape.backward(&y, seed, &mut gradients, Some(&leaf)).unwrap();
                assert!(dx.data().iter().chain(&gradients[..]).all(|g| g.is_finite()), "{which} {value}");
            }
        }
    }
}

#[test]
fn patch_embed_shows_a_nan_pixel() {
    let mut parameters = Parameters::new();
    let (weight, bias) = (parameters.add("weight", &[5, 1, 2, 2]), parameters.add("bias", &[5]));
    let mut images = Tensor::zeros([1, 1, 4, 4]);
    images.data_mut()[10] = f32::NAN;
    let y = Tape::inference(&parameters).patch_embed(&images, &[0.5], &[0.5], Layer { weight, bias: Some(bias) }, None);
    assert_eq!(y.value.data().iter().filter(|y| y.is_nan()).count(), 5);
}

#[test]
fn l1_keeps_nan_in_loss_and_gradient() {
    let parameters = Parameters::new();
    let mut tape = Tape::recording(&parameters);
    let leaf = tape.leaf(Tensor::from_slice([1, 3], &[f32::NAN, 1.0, 2.0]));
    let loss = tape.l1(&leaf, &Tensor::from_slice([1, 3], &[0.0, 0.0, 2.0]));
    assert!(loss.value.item().is_nan());
    let gradient = tape.backward(&loss, Tensor::scalar(3.0), &mut [], Some(&leaf)).unwrap();
    assert!(gradient.data()[0].is_nan());
    assert_eq!(gradient.data()[1..], [1.0, 0.0]);
}
