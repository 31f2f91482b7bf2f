//! Orders that cost nothing at run time: whatever lies between two linears may be sorted, if the rows of the one and
//! the columns of the other are. Sorted by worth, weak units share blocks, and the scores of blocks spread. Knows no
//! model.
//!
//! To concentrate what matters before pruning: as DenoiseRotator does by rotations (Gu 2025, arXiv 2505.23049).

/// The places of `worth` from the highest to the lowest; of equal ones the first comes first.
pub fn falling(worth: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..worth.len()).collect();
    order.sort_by(|a, b| worth[*b].total_cmp(&worth[*a]));
    order
}

/// Row `i` becomes what row `order[i]` was.
pub fn rows<T: Copy>(data: &[T], cols: usize, order: &[usize]) -> Vec<T> {
    order.iter().flat_map(|&row| &data[row * cols..][..cols]).copied().collect()
}

/// Column `i` becomes what column `order[i]` was.
pub fn columns<T: Copy>(data: &[T], order: &[usize]) -> Vec<T> {
    data.chunks_exact(order.len()).flat_map(|row| order.iter().map(|&col| row[col])).collect()
}

/// `sum_j (w_ij n_j)^2` of every row, `n_j^2` being the diagonal `h`.
pub fn row_worth(data: &[f32], h: &[f64]) -> Vec<f64> {
    let row = |row: &[f32]| row.iter().zip(h).map(|(w, h)| f64::from(*w).powi(2) * h).sum();
    data.chunks_exact(h.len()).map(row).collect()
}

/// `sum_i w_ij^2` of every column.
pub fn column_worth(data: &[f32], cols: usize) -> Vec<f64> {
    let mut sums = vec![0.0; cols];
    for row in data.chunks_exact(cols) {
        sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(*w).powi(2));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_fall_and_move_rows_and_columns() {
        let order = falling(&[1.0, 3.0, 1.0, 2.0]);
        assert_eq!(order, [1, 3, 0, 2]);
        let data = [0, 1, 10, 11, 20, 21, 30, 31];
        assert_eq!(rows(&data, 2, &order), [10, 11, 30, 31, 0, 1, 20, 21]);
        assert_eq!(columns(&[0, 1, 2, 3, 10, 11, 12, 13], &order), [1, 3, 0, 2, 11, 13, 10, 12]);
        assert_eq!(row_worth(&[1.0, 2.0, 3.0, 0.0], &[1.0, 0.5]), [3.0, 9.0]);
        assert_eq!(column_worth(&[1.0, 2.0, 3.0, 0.0], 2), [10.0, 4.0]);
    }
}
