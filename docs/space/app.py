from sat.web.page import LAUNCH, build_page

page = build_page()  # or the folders of your own checkpoints: build_page(["runs/birds/best"])
if __name__ == "__main__":
    page.launch(**LAUNCH)
