pub mod layer;
pub mod norm;
pub mod rows;
