# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# `make` alone says what there is. Each target calls one script or one command; what it does is in there.

SHELL := /bin/bash
VENV := .venv/bin
LAB := $(VENV)/python -m tests.lab
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-clean lab-up lab-down lab-reset lab-status test test-full lint unit integration molecule estate bench

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing: Debian packages, .venv, a running Docker daemon
	@scripts/bootstrap
	@scripts/dockerd-up

demo: setup ## Build the throwaway estate, retire it, say where the report lies
	@scripts/demo

demo-clean: ## Remove all that the demo left (IMAGES=1: the images too, CACHES=1: the caches too)
	@if [ -x $(VENV)/python ]; then $(LAB) clean $(if $(IMAGES),--images) $(if $(CACHES),--caches); fi
	@scripts/dockerd-down

lab-up: setup ## The throwaway estate, up and filled
	@$(LAB) up

lab-down: ## Remove the throwaway estate
	@$(LAB) down

lab-reset: ## The throwaway estate as on the first day
	@$(LAB) reset

lab-status: ## What of the throwaway estate is there
	@$(LAB) status

test: setup ## All tests: lint, unit, integration, molecule, estate
	@scripts/test

test-full: setup ## All tests, and the long ones: emulated disks
	@scripts/test lint unit integration molecule estate full

lint: setup ## Linters and type checks
	@scripts/test lint

unit: setup ## Unit tests
	@scripts/test unit

integration: setup ## Tests against real servers
	@scripts/test integration

molecule: setup ## One scenario a role
	@scripts/test molecule

estate: setup ## The whole job on the throwaway estate
	@scripts/test estate

bench: setup ## How long things take
	@scripts/test bench
