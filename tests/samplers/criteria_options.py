from ood_sampler.samplers.criteria import CriteriaOptions

OPTIONS = CriteriaOptions(
    references=10,
    distance=None,
    origin_angle=None,
    pair_angle=None,
    tolerance=0.25,
    distance_tolerance=None,
    origin_angle_tolerance=None,
    pair_angle_tolerance=None,
)
