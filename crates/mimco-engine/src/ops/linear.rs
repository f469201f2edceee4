//! Affine maps y = act(x Wᵀ + b), alone and as the parts of a transformer's branches: the norm before, the residual sum after, the whole MLP.
//!
//! x [rows, inputs], W [outputs, inputs] as PyTorch keeps it, b `[outputs]`, y [rows, outputs]. s is one number an image: 1, or drop path's 0
//! or 1 / (1 - rate). Products are in the parameters' precision, residual sums in f32.

use super::{Activation, DropPath, Layer, Norm};
use crate::cpu::product::Panels;
use crate::{Tape, Tensor, Var};

impl Tape<'_> {
    /// y = act(x Wᵀ + b): x [rows, inputs] -> [rows, outputs], in x's precision.
    pub fn linear(&mut self, x: &Var, layer: Layer, activation: Activation) -> Var {
        let (wants, precision) = (self.wants_gradient(&[x], &layer.parameters()), self.precision());
        let (mut y, mut before) = layer.stale_outputs(self, &x.value, x.value.precision(), wants && activation == Activation::Gelu);
        layer.activated(self, &x.value, activation, &mut y, before.as_mut());
        if !wants {
            return Var::constant(y);
        }
        let x = x.clone();
        self.record(y, move |dy, pass| {
            let dy = layer.outgoing(pass, &dy, None, before.as_ref());
            layer.weight_gradient(pass, &dy.panels, &Panels::new(x.value.operand(), precision));
            if x.node().is_some() {
                let dx = layer.input_gradient(pass, &dy.rows, x.value.precision());
                pass.add(x.node(), dx);
            }
        })
    }

    /// The beginning of a branch, y = norm(x) Wᵀ + b: x [rows, inputs] in f32 -> [rows, outputs] in the parameters' precision. What the norm
    /// makes of x is worked out again on the way back: that costs less than the memory it would fill.
    pub fn norm_linear(&mut self, x: &Var, norm: Norm, layer: Layer) -> Var {
        let (parameters, precision) = (self.parameters(), self.precision());
        let mut statistics = Tensor::stale([x.value.rows(), 2]);
        let normal = norm.forward(parameters, &x.value, precision, &mut statistics);
        let (mut y, _) = layer.stale_outputs(self, &x.value, precision, false);
        layer.activated(self, &normal, Activation::None, &mut y, None);
        let [weight, bias] = layer.parameters();
        if !self.wants_gradient(&[x], &[norm.weight, norm.bias, weight, bias]) {
            return Var::constant(y);
        }
        let x = x.clone();
        self.record(y, move |dy, pass| {
            let dy = layer.outgoing(pass, &dy, None, None);
            layer.weight_gradient(pass, &dy.panels, &norm.panels(parameters, &x.value, &statistics));
            let dnormal = layer.input_gradient(pass, &dy.rows, precision);
            norm.backward(pass, &x, &statistics, &dnormal);
        })
    }

    /// The end of a branch, y = r + s (x Wᵀ + b): residual r [rows, outputs], x [rows, inputs] -> [rows, outputs].
    pub fn linear_residual(&mut self, residual: &Var, x: &Var, layer: Layer, drop_path: Option<DropPath>) -> Var {
        let precision = self.precision();
        let y = layer.onto(self, &residual.value, &x.value, drop_path.as_ref());
        let [weight, bias] = layer.parameters();
        if !self.wants_gradient(&[residual, x], &[weight, bias]) {
            return Var::constant(y);
        }
        let (residual, x) = (residual.node(), x.clone());
        self.record(y, move |dy, pass| {
            let branch = layer.outgoing(pass, &dy, drop_path.as_ref(), None);
            layer.weight_gradient(pass, &branch.panels, &Panels::new(x.value.operand(), precision));
            if x.node().is_some() {
                let dx = layer.input_gradient(pass, &branch.rows, x.value.precision());
                pass.add(x.node(), dx);
            }
            pass.add(residual, dy);
        })
    }

    /// A transformer's second branch, y = x + s (gelu(norm(x) W₁ᵀ + b₁) W₂ᵀ + b₂): x [rows, width] -> [rows, width]. Of the hidden rows the way
    /// back keeps what stands before the activation alone.
    pub fn mlp(&mut self, x: &Var, norm: Norm, [first, second]: [Layer; 2], drop_path: Option<DropPath>) -> Var {
        let (parameters, precision) = (self.parameters(), self.precision());
        let trained = [[norm.weight, norm.bias], first.parameters(), second.parameters()].concat();
        let wants = self.wants_gradient(&[x], &trained);
        let mut statistics = Tensor::stale([x.value.rows(), 2]);
        let normal = norm.forward(parameters, &x.value, precision, &mut statistics);
        let (mut hidden, mut before) = first.stale_outputs(self, &x.value, precision, wants);
        first.activated(self, &normal, Activation::Gelu, &mut hidden, before.as_mut());
        drop(normal);
        let y = second.onto(self, &x.value, &hidden, drop_path.as_ref());
        let (true, Some(before)) = (wants, before) else { return Var::constant(y) };
        let x = x.clone();
        self.record(y, move |dy, pass| {
            let branch = second.outgoing(pass, &dy, drop_path.as_ref(), None);
            pass.add(x.node(), dy);
            let (hidden, dbefore) = second.input_gradient_through_gelu(pass, &branch.rows, &before, &first);
            drop(before);
            second.weight_gradient(pass, &branch.panels, &hidden);
            drop((branch, hidden));
            first.weight_gradient(pass, &dbefore.panels, &norm.panels(parameters, &x.value, &statistics));
            let dnormal = first.input_gradient(pass, &dbefore.rows, precision);
            drop(dbefore);
            norm.backward(pass, &x, &statistics, &dnormal);
        })
    }
}
