"""Named attacks, each an attack of foolbox or of this package with its settings. A new one is a line in `ATTACKS`."""

from __future__ import annotations

from .attack import Attack

LINF_STEPS = (1, 2, 4, 8, 25)  # budgets, in 8-bit steps
L2_STEPS = {"steps": 40, "rel_stepsize": 2.5 / 40}  # shorter steps would leave most of the random start
CARLINI_WAGNER = {"binary_search_steps": 4, "steps": 150, "initial_const": 1.0, "confidence": 0.2}
# attacks of this package
AUTO_PGD = "pixeldefend.attacks.apgd:LinfAutoPGD"
SQUARE = "pixeldefend.attacks.square:LinfSquareAttack"
MI_FGSM = "pixeldefend.attacks.mi_fgsm:LinfMomentumAttack"  # foolbox adds the signs of gradients
TI_FGSM = "pixeldefend.attacks.ti_fgsm:LinfTranslationInvariantAttack"

ATTACKS: dict[str, Attack] = {
    # a detector that flags this control flags any noise, so that detecting the attacks says little
    "noise-8": Attack("LinfAdditiveUniformNoiseAttack", 8 / 255, is_control=True),
    # one step along the sign of the gradient (Goodfellow et al. 2015)
    **{f"fgsm-{k}": Attack("LinfFastGradientAttack", k / 255) for k in LINF_STEPS},
    # the same attack in 10 small steps (Kurakin et al. 2017)
    **{f"bim-{k}": Attack("LinfBasicIterativeAttack", k / 255, {"steps": 10}) for k in LINF_STEPS},
    # for transfer to other classifiers: with momentum (Dong et al. 2018), or smoothed gradients (Dong et al. 2019)
    **{f"mi-fgsm-{k}": Attack(MI_FGSM, k / 255, {"steps": 10}) for k in (4, 8)},
    **{f"ti-fgsm-{k}": Attack(TI_FGSM, k / 255, {"steps": 10, "sigma": 2.0}) for k in (4, 8)},
    # from a random start, in 40 steps (Madry et al. 2018)
    **{f"pgd-{k}": Attack("LinfProjectedGradientDescentAttack", k / 255, {"steps": 40}) for k in LINF_STEPS},
    # with momentum and step sizes that adapt (Croce & Hein 2020), for two losses
    **{f"apgd-ce-{k}": Attack(AUTO_PGD, k / 255, {"steps": 100, "loss": "ce"}) for k in LINF_STEPS[:4]},
    **{f"apgd-dlr-{k}": Attack(AUTO_PGD, k / 255, {"steps": 100, "loss": "dlr"}) for k in LINF_STEPS[:4]},
    **{f"pgd-l2-{eps}": Attack("L2ProjectedGradientDescentAttack", eps, L2_STEPS) for eps in (0.25, 0.5, 1.0)},
    # the fewest pixels: by gradients (Pintor et al. 2021), and black or white at random, without gradients
    "fmn-l0": Attack("L0FMNAttack", settings={"steps": 100}),
    "salt-and-pepper": Attack("SaltAndPepperNoiseAttack", settings={"steps": 300}),
    # random squares, without gradients (Andriushchenko et al. 2020)
    **{f"square-{k}": Attack(SQUARE, k / 255, {"queries": 1000}) for k in LINF_STEPS[:4]},
    # the nearest boundary of a linearised classifier, repeatedly (Moosavi-Dezfooli et al. 2016)
    "deepfool-linf": Attack("LinfDeepFoolAttack", settings={"steps": 50}),
    "deepfool-l2": Attack("L2DeepFoolAttack", settings={"steps": 50}),
    # the least L2 perturbation by optimisation (Carlini & Wagner 2017); most would not survive rounding to 8 bits
    # without a margin in the logits, `confidence`
    "cw-l2": Attack("L2CarliniWagnerAttack", settings={**CARLINI_WAGNER, "stepsize": 0.05}),
    # foolbox's default step size: too small to move pixels of exactly 0 or 255 in so few steps, so the change is
    # larger, but only in textured pixels
    "cw-l2-slow": Attack("L2CarliniWagnerAttack", settings={**CARLINI_WAGNER, "stepsize": 0.01}),
    # the same with a penalty of the L1 norm, so that fewer pixels change, but by more (Chen et al. 2018)
    "ead-l1": Attack("EADAttack", settings={**CARLINI_WAGNER, "initial_stepsize": 0.05, "decision_rule": "L1"}),
    # the least L2 perturbation by steps whose direction and length are decoupled (Rony et al. 2019)
    "ddn": Attack("DDNAttack", settings={"steps": 100}),
}
