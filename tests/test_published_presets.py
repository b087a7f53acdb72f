"""Methods with published settings have the values of Skyfall-GS, or a reason for each difference."""

import dataclasses

import pytest
from test_docs import load_script

OPTIONS, PAGE = load_script("published_options"), load_script("published_page")
STAGES = {
    "stage 1": (OPTIONS.STAGE1_ROWS, OPTIONS.STAGE1_METHODS, OPTIONS.STAGE1_SCRIPTS),
    "stage 2": (OPTIONS.STAGE2_ROWS, OPTIONS.STAGE2_METHODS, OPTIONS.STAGE2_SCRIPTS),
}
ALL_OPTIONS = """
    sh_degree appearance_enabled appearance_n_fourier_freqs appearance_embedding_dim source_path model_path images
    resolution white_background data_device kernel_size eval ray_jitter resample_gt_image load_allres
    sample_more_highres convert_SHs_python compute_cov3D_python debug iterations position_lr_init position_lr_final
    position_lr_delay_mult position_lr_max_steps feature_lr opacity_lr scaling_lr rotation_lr percent_dense
    densification_interval opacity_reset_interval densify_from_iter densify_until_iter densify_grad_threshold
    lambda_dssim lambda_depth lambda_opacity embedding_lr appearance_embedding_lr appearance_embedding_regularization
    appearance_mlp_lr size_threshold use_lpips_loss lpips_net sample_pseudo_interval start_sample_pseudo
    end_sample_pseudo lambda_pseudo_depth num_pseudo_cams target_std post_training_iterations idu_no_curriculum
    idu_episode_iterations idu_densify_until_iter idu_opacity_reset_interval idu_opacity_cooling_iterations
    idu_testing_interval idu_refine idu_random_ap idu_iter_full_train idu_num_cams idu_num_samples_per_view
    idu_train_ratio datasets_type idu_params idu_position_lr_max_steps idu_render_size idu_grid_width idu_grid_height
    idu_grid_size idu_ddim_strength idu_ddim_eta idu_ddim_step idu_ddim_guidance_scale idu_use_flow_edit
    idu_flow_edit_n_min idu_flow_edit_n_max idu_flow_edit_n_max_end idu_flow_edit_n_avg idu_model_type idu_use_difix3d
    idu_use_dreamscene idu_use_sd21 ip port debug_from detect_anomaly test_iterations save_iterations
    checkpoint_iterations quiet start_checkpoint iterative_datasets_update
"""


def unexplained(rows, methods):
    """(option, method, published, effective) of the differences without a reason, and reasons without a difference."""
    configs = {name: PAGE.load_method(name) for name in methods}
    found = []
    for row in rows:
        pairs = [
            (name, published, OPTIONS.read_value(configs[name], row.read))
            for name, published in zip(methods, row.published, strict=True)
        ]
        different = [(row.option, *pair) for pair in pairs if not OPTIONS.is_equal(pair[1], pair[2])]
        if different and not row.reason:
            found += different
        if row.reason and not different:
            found.append((row.option, "a reason without a difference"))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_every_published_value_is_in_the_methods_or_has_a_reason(stage):
    rows, methods, _ = STAGES[stage]
    assert unexplained(rows, methods) == []


def test_a_changed_value_is_found():
    row = next(row for row in OPTIONS.STAGE1_ROWS if row.option == "lambda_opacity")
    changed = dataclasses.replace(row, published=(9, 0, 10))
    assert unexplained([changed], OPTIONS.STAGE1_METHODS) == [("lambda_opacity", "skyfall-reference", 9, 10.0)]


def test_every_option_of_skyfall_gs_has_a_row_or_a_reason():
    named = {row.option.split(",")[0].split(":")[0].split(" ")[0]
             for rows, *_ in STAGES.values() for row in rows}  # fmt: skip
    without = {name for names in OPTIONS.NO_COUNTERPART.values() for name in names.split()}
    assert set(ALL_OPTIONS.split()) - named == without


def test_the_page_is_up_to_date():
    assert PAGE.PAGE.read_text() == PAGE.page_text(), "run python docs/generate_reference.py"


def test_a_difference_shows_both_values():
    assert PAGE.cell_text((85, 75), (85, 75)) == "85, 75" and PAGE.cell_text(0.1, 0.1) == "0.1"
    assert PAGE.cell_text(False, True) == "off, here on" and PAGE.cell_text(None, 5_000_000) == "none, here 5e+06"
